"""The window of the operator: pictures, and the keyboard or a gamepad."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.errors import DeviceError, MissingExtraError, RenderingError
from smolvla_gym.teleoperation.jog import Command

DEVICES: Final = ("keyboard", "gamepad")

HELP: Final[Mapping[str, Sequence[str]]] = {
    "keyboard": (
        "W S forward, back   A D left, right   R F up, down   Q E turn   (Shift: slowly)",
        "Space gripper   Enter keep   Backspace discard   Esc leave",
    ),
    "gamepad": (
        "left stick forward, back, left, right   right stick up, down, turn",
        "A gripper   Start keep   Back discard   (Esc leaves)",
    ),
}
"""What is written below the pictures."""

_HEIGHT: Final = 480
_MARGIN: Final = 96
_DEAD: Final = 0.12
"""Deflection of a stick that is none."""

_FULL: Final = 32_767
"""What SDL gives for a stick that is pushed all the way."""

_SLOWLY: Final = 0.3

_UNSEEN: Final = ("offscreen", "dummy")
"""Video drivers of SDL without a display."""

_KEYS: Final = {
    "space": "gripper", "return": "keep", "enter": "keep", "backspace": "discard", "delete": "discard",
    "escape": "leave",
}  # fmt: skip


class OperatorWindow:
    """Shows pictures and tells what the operator wants."""

    def __init__(self, device: str) -> None:
        """Opens the window.

        Args:
            device: One of ``DEVICES``.

        Raises:
            MissingExtraError: pygame is not installed.
            RenderingError: There is no display.
            DeviceError: There is no gamepad.
        """
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        # SDL would draw with OpenGL, whose context in this thread the simulation's pictures need for themselves.
        os.environ.setdefault("SDL_FRAMEBUFFER_ACCELERATION", "0")
        os.environ.setdefault("SDL_RENDER_DRIVER", "software")
        try:
            import pygame
        except ImportError as error:
            raise MissingExtraError("Driving by hand", "teleop", error) from error
        self._pygame, self._device = pygame, device
        self._screen: Any = None
        self._stick: Any = None
        self._buttons = {
            pygame.CONTROLLER_BUTTON_A: "gripper",
            pygame.CONTROLLER_BUTTON_BACK: "discard",
            pygame.CONTROLLER_BUTTON_START: "keep",
        }
        self._held: set[int] = set()
        self._axes: dict[int, float] = {}
        try:
            pygame.display.init()
            # Without a display SDL takes one of these, and would wait for keys that nobody can press.
            if pygame.display.get_driver() in _UNSEEN and not os.environ.get("SDL_VIDEODRIVER"):
                raise pygame.error("none was found")
            pygame.font.init()
            pygame.display.set_caption("smolvla-gym")
            self._screen = pygame.display.set_mode((640, _HEIGHT + _MARGIN))
        except pygame.error as error:
            self.close()
            raise RenderingError(
                f"There is no display for a window ({error}). On a machine without one: xvfb-run smolvla-gym ..."
            ) from error
        self._font = pygame.font.Font(None, 22)
        if device == "gamepad":
            # SDL knows which of a gamepad's axes and buttons is which; as joysticks every make numbers them otherwise.
            from pygame._sdl2 import controller

            self._controller = controller
            controller.init()
            self._connect()
            if self._stick is None:
                self.close()
                raise DeviceError("There is no gamepad that SDL knows. Plug one in, or drive with --source keyboard.")

    def _connect(self) -> None:
        """Opens the first gamepad that SDL knows, if there is one."""
        for index in range(self._pygame.joystick.get_count()):
            if self._controller.is_controller(index):
                self._stick = self._controller.Controller(index)
                return

    def _check_stick(self) -> None:
        """Notices that the gamepad is gone, asleep or unplugged, and opens it again once it is back.

        What was held on it counts no more in either case: the arm stops, and goes on when a stick is moved again.
        """
        if self._device != "gamepad":
            return
        if self._stick is not None and not self._stick.attached():
            with contextlib.suppress(self._pygame.error):
                self._stick.quit()  # or pygame would give the dead one for the same number
            self._stick = None
            self._axes.clear()
        if self._stick is None:
            self._connect()

    def show(self, pictures: Sequence[NDArray[np.uint8]], lines: Sequence[str]) -> None:
        """Draws.

        Args:
            pictures: Side by side, each uint8 (H, W, 3).
            lines: What stands below, over the help.
        """
        pygame = self._pygame
        widths = [round(_HEIGHT * picture.shape[1] / picture.shape[0]) for picture in pictures]
        size = (max(sum(widths), 640), _HEIGHT + _MARGIN)
        if self._screen.get_size() != size:
            self._screen = pygame.display.set_mode(size)
        if self._device == "gamepad" and self._stick is None:
            lines = [*lines, "The gamepad is gone and the arm stands: wake it or plug it in."]
        self._screen.fill((24, 24, 24))
        left = 0
        for picture, width in zip(pictures, widths, strict=True):
            surface = pygame.surfarray.make_surface(np.ascontiguousarray(picture.swapaxes(0, 1)))
            self._screen.blit(pygame.transform.smoothscale(surface, (width, _HEIGHT)), (left, 0))
            left += width
        for number, line in enumerate([*lines, *HELP[self._device]]):
            bright = (235, 235, 235) if number < len(lines) else (150, 150, 150)
            self._screen.blit(self._font.render(line, True, bright), (10, _HEIGHT + 4 + 20 * number))
        pygame.display.flip()

    def poll(self) -> Command:
        """Returns what the operator wants now; what is pressed for an instant only is not lost."""
        pygame = self._pygame
        pressed: set[str] = set()
        for event in pygame.event.get():
            if event.type == pygame.QUIT:
                pressed.add("leave")
            elif event.type == pygame.KEYDOWN:
                self._held.add(event.key)
                pressed.add(_KEYS.get(pygame.key.name(event.key), ""))
            elif event.type == pygame.KEYUP:
                self._held.discard(event.key)
            elif event.type == pygame.WINDOWFOCUSLOST:
                self._held.clear()  # the key will be let go of elsewhere, and the arm must not go on
            elif event.type == pygame.CONTROLLERAXISMOTION:
                value = event.value / _FULL
                self._axes[event.axis] = value if abs(value) > _DEAD else 0.0
            elif event.type == pygame.CONTROLLERBUTTONDOWN:
                pressed.add(self._buttons.get(event.button, ""))
            elif event.type == pygame.CONTROLLERDEVICEREMOVED:
                self._axes.clear()
        self._check_stick()
        velocity, turn = self._motion()
        return Command(
            velocity, turn, "gripper" in pressed, "keep" in pressed, "discard" in pressed, "leave" in pressed
        )

    def _motion(self) -> tuple[NDArray[np.float64], float]:
        pygame = self._pygame
        held = {pygame.key.name(key) for key in self._held}

        def keys(more: str, less: str) -> float:
            return float(more in held) - float(less in held)

        slowly = _SLOWLY if any("shift" in name for name in held) else 1.0
        by_keys = slowly * np.array([keys("w", "s"), keys("a", "d"), keys("r", "f"), keys("q", "e")])
        left = pygame.CONTROLLER_AXIS_LEFTY, pygame.CONTROLLER_AXIS_LEFTX
        right = pygame.CONTROLLER_AXIS_RIGHTY, pygame.CONTROLLER_AXIS_RIGHTX
        # Sticks read -1 at the left and at the top.
        by_sticks = -np.array([self._axes.get(axis, 0.0) for axis in (*left, *right)])
        motion = np.clip(by_keys + by_sticks, -1.0, 1.0)
        return motion[:3], float(motion[3])

    def forget(self) -> None:
        """Forgets what was pressed until now: nobody saw what it would do."""
        self._pygame.event.clear()
        self._held.clear()
        self._axes.clear()

    def close(self) -> None:
        """Closes the window; doing it twice does no harm."""
        self._screen = None
        self._pygame.quit()
