"""Options of the mount guard, which finds out at the start whether a camera has moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smolvla_gym.cli.options.parser import Options, option
from smolvla_gym.cli.output import say

if TYPE_CHECKING:
    import gymnasium as gym

    from smolvla_gym.calibration.mount_check import MountCheck
    from smolvla_gym.episodes.callback import Callback


@dataclass(kw_only=True)
class MountGuardOptions(Options):
    """Options of the mount guard."""

    mount_guard: bool = option(
        "do not compare the cameras at the start with the images that `smolvla-gym mount-guard keep` kept", True,
        flag="--no-mount-guard",
    )  # fmt: skip
    mount_images: Path | None = option(
        "folder of these images (default: ~/.local/share/smolvla_gym/calibration)", None, metavar="DIR"
    )

    def check(self, env: str) -> None:
        """Refuse options that do not fit together.

        Args:
            env: ``"sim"`` or ``"real"``.

        Raises:
            UsageError: An option has no effect.
        """
        if env != "real":
            for name in self.changed():
                self.refuse(name, "only with --env real")
        if self.mount_images is not None and not self.mount_guard:
            self.refuse("mount_images", "not with --no-mount-guard")

    def callbacks(self, env: gym.Env[Any, Any]) -> list[Callback]:
        """Return the callback that compares the cameras; none where there is nothing to compare with.

        Args:
            env: The env of the episodes.

        Raises:
            CalibrationError: A file of the images is broken. Nothing has moved.
        """
        if not self.mount_guard:
            return []
        from smolvla_gym.calibration.mount_guard import MountGuard
        from smolvla_gym.episodes.mount_guard import MountGuardCallback

        guard = MountGuard(env, self.mount_images)
        return [MountGuardCallback(guard, report)] if guard.references else []


def report(checks: Sequence[MountCheck]) -> None:
    """Print the results of a comparison to standard error: cameras in place in one line, a line for any other one."""
    from smolvla_gym.calibration.mount_check import Verdict

    in_place = [check for check in checks if check.verdict is Verdict.IN_PLACE]
    if in_place:
        shifts = ", ".join(f"{check.camera} {check.shift.rms:.2f} px" for check in in_place if check.shift is not None)
        say(f"cameras in place since their calibration: {shifts}")
    for check in checks:
        if check.verdict is not Verdict.IN_PLACE:
            say(f"warning: {check.message}")
