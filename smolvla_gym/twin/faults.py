"""Faults that can be injected into the virtual devices, by name and while they run."""

from __future__ import annotations

from dataclasses import dataclass, fields

from smolvla_gym.errors import OptionError, UnknownNameError


@dataclass
class Faults:
    """Switches of the faults; all are off by default.

    Attributes:
        silence: The board's replies get lost.
        partial: Replies break off after a third.
        drip: Replies come in five pieces, 2 ms apart.
        corrupt: One byte of each reply arrives wrong.
        wrong_length: The length byte of each reply is one too high.
        delay_s: How much later replies come, in s.
        unplugged: The USB cable of the arm is out; the board keeps its power.
        estop: The emergency stop is pressed.
        lost_homing: The board forgets that it was homed; the switch then goes off by itself.
        camera_frozen: The camera gives the same frame again and again.
        camera_unplugged: The USB cable of the camera is out.
        camera_fps: Frames a second of a camera that has become slow; None for its own.
        camera_torn: The images of an MJPEG camera are broken off in the middle.
        camera_small: The images of an MJPEG camera have half of their width and height.
        seed: Seed of the bytes that arrive wrong.
    """

    silence: bool = False
    partial: bool = False
    drip: bool = False
    corrupt: bool = False
    wrong_length: bool = False
    delay_s: float = 0.0
    unplugged: bool = False
    estop: bool = False
    lost_homing: bool = False
    camera_frozen: bool = False
    camera_unplugged: bool = False
    camera_fps: float | None = None
    camera_torn: bool = False
    camera_small: bool = False
    seed: int = 0

    def set(self, name: str, value: bool | float | None) -> None:
        """Set a switch by name, as a command line does.

        Args:
            name: One of ``NAMES``.
            value: True or False for a switch that is on or off; a number for the others, None where that is allowed.

        Raises:
            UnknownNameError: There is no switch of this name.
            OptionError: The switch does not take this value.
        """
        if name not in NAMES:
            raise UnknownNameError("fault", name, NAMES)
        number = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0.0
        if name == "delay_s":
            allowed, right = "a number of seconds, 0 or more", number
        elif name == "camera_fps":
            allowed, right = "a number above 0, or None", value is None or (number and value != 0)
        else:
            allowed, right = "True or False", isinstance(value, bool)
        if not right:
            raise OptionError(name, value, allowed)
        setattr(self, name, value)

    def clear(self) -> None:
        """Turn all switches off."""
        for name in NAMES:
            setattr(self, name, _DEFAULTS[name])


_DEFAULTS = {field.name: field.default for field in fields(Faults) if field.name != "seed"}

NAMES = tuple(_DEFAULTS)
"""The names that :meth:`Faults.set` knows."""
