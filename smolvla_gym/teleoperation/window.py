"""Window of the operator: shows images, and reads the keyboard or a gamepad."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.errors import DeviceError, RenderingError, needs_extra
from smolvla_gym.teleoperation.jog import Command

DEVICES: Final = ("keyboard", "gamepad")

HELP: Final[Mapping[str, Sequence[str]]] = {
    "keyboard": (
        "W S forward, back   A D left, right   R F up, down   Q E turn   (Shift: slow)",
        "Space gripper   Enter keep   Backspace discard   Esc leave",
    ),
    "gamepad": (
        "left stick forward, back, left, right   right stick up, down, turn",
        "A gripper   Start keep   Back discard   (Esc leaves)",
    ),
}
"""Help lines below the images."""

_HEIGHT: Final = 480
_MARGIN: Final = 96
_DEAD_ZONE: Final = 0.12
"""Deflection of a stick, 0..1, that counts as zero."""

_FULL_DEFLECTION: Final = 32_767
"""SDL's value of a stick at full deflection."""

_SLOW: Final = 0.3
"""Share of the speed while Shift is held."""

_HEADLESS: Final = ("offscreen", "dummy")
"""Video drivers of SDL without a display."""

_KEYS: Final = {
    "space": "gripper", "return": "keep", "enter": "keep", "backspace": "discard", "delete": "discard",
    "escape": "leave",
}  # fmt: skip


class OperatorWindow:
    """Shows images to the operator, and reads the operator's commands."""

    def __init__(self, device: str) -> None:
        """Open the window.

        Args:
            device: One of ``DEVICES``.

        Raises:
            MissingExtraError: pygame is not installed.
            RenderingError: No display was found.
            DeviceError: No gamepad was found.
        """
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        # SDL would render with OpenGL, and its context would replace that of the simulation in this thread.
        os.environ.setdefault("SDL_FRAMEBUFFER_ACCELERATION", "0")
        os.environ.setdefault("SDL_RENDER_DRIVER", "software")
        with needs_extra("Teleoperation", "teleop"):
            import pygame
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
            # Without a display SDL uses one of these, which have no keyboard.
            if pygame.display.get_driver() in _HEADLESS and not os.environ.get("SDL_VIDEODRIVER"):
                raise pygame.error("none was found")
            pygame.font.init()
            pygame.display.set_caption("smolvla-gym")
            self._screen = pygame.display.set_mode((640, _HEIGHT + _MARGIN))
        except pygame.error as error:
            self.close()
            raise RenderingError(
                f"No display was found for a window ({error}). On a machine without one: xvfb-run smolvla-gym ..."
            ) from error
        self._font = pygame.font.Font(None, 22)
        if device == "gamepad":
            # SDL's controller interface maps axes and buttons; as joysticks, each make numbers them in its own way.
            from pygame._sdl2 import controller

            self._controller = controller
            controller.init()
            self._connect()
            if self._stick is None:
                self.close()
                raise DeviceError("No gamepad was found that SDL supports. Plug one in, or use --source keyboard.")

    def _connect(self) -> None:
        """Open the first gamepad that SDL supports, if there is one."""
        for index in range(self._pygame.joystick.get_count()):
            if self._controller.is_controller(index):
                self._stick = self._controller.Controller(index)
                return

    def _check_stick(self) -> None:
        """Detect that the gamepad is asleep or unplugged, and open it again when it is back.

        The deflections of its sticks are dropped: the arm stops, and moves again when a stick is moved again.
        """
        if self._device != "gamepad":
            return
        if self._stick is not None and not self._stick.attached():
            with contextlib.suppress(self._pygame.error):
                self._stick.quit()  # or pygame would return the dead one for the same index
            self._stick = None
            self._axes.clear()
        if self._stick is None:
            self._connect()

    def show(self, images: Sequence[NDArray[np.uint8]], lines: Sequence[str]) -> None:
        """Draw images and text.

        Args:
            images: Images, drawn side by side, each uint8 (H, W, 3).
            lines: Lines of text below the images, above the help.
        """
        pygame = self._pygame
        widths = [round(_HEIGHT * image.shape[1] / image.shape[0]) for image in images]
        size = (max(sum(widths), 640), _HEIGHT + _MARGIN)
        if self._screen.get_size() != size:
            self._screen = pygame.display.set_mode(size)
        if self._device == "gamepad" and self._stick is None:
            lines = [*lines, "The gamepad is disconnected and the arm stopped: wake it or plug it in."]
        self._screen.fill((24, 24, 24))
        left = 0
        for image, width in zip(images, widths, strict=True):
            surface = pygame.surfarray.make_surface(np.ascontiguousarray(image.swapaxes(0, 1)))
            self._screen.blit(pygame.transform.smoothscale(surface, (width, _HEIGHT)), (left, 0))
            left += width
        for number, line in enumerate([*lines, *HELP[self._device]]):
            bright = (235, 235, 235) if number < len(lines) else (150, 150, 150)
            self._screen.blit(self._font.render(line, True, bright), (10, _HEIGHT + 4 + 20 * number))
        pygame.display.flip()

    def poll(self) -> Command:
        """Return the present command; keys that were pressed and released since the last call count too."""
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
                self._held.clear()  # its release goes to another window, and the arm must stop
            elif event.type == pygame.CONTROLLERAXISMOTION:
                value = event.value / _FULL_DEFLECTION
                self._axes[event.axis] = value if abs(value) > _DEAD_ZONE else 0.0
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

        speed = _SLOW if any("shift" in name for name in held) else 1.0
        by_keys = speed * np.array([keys("w", "s"), keys("a", "d"), keys("r", "f"), keys("q", "e")])
        left = pygame.CONTROLLER_AXIS_LEFTY, pygame.CONTROLLER_AXIS_LEFTX
        right = pygame.CONTROLLER_AXIS_RIGHTY, pygame.CONTROLLER_AXIS_RIGHTX
        # Sticks read -1 at the left and at the top.
        by_sticks = -np.array([self._axes.get(axis, 0.0) for axis in (*left, *right)])
        motion = np.clip(by_keys + by_sticks, -1.0, 1.0)
        return motion[:3], float(motion[3])

    def forget(self) -> None:
        """Drop all input so far, which the operator gave without seeing its effect."""
        self._pygame.event.clear()
        self._held.clear()
        self._axes.clear()

    def close(self) -> None:
        """Close the window; a second call does nothing."""
        self._screen = None
        self._pygame.quit()
