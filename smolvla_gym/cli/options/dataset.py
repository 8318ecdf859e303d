"""Options of a dataset with other names or units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from smolvla_gym.cli.options.parser import Options, option


@dataclass(kw_only=True)
class ConversionOptions(Options):
    """Options that say how a dataset of other names or units is converted."""

    rename: list[str] | None = option(
        "another name for a camera (front=wrist) or a component (shoulder_pan.pos=joint_1); repeatable", None,
        repeat=True, metavar="OLD=NEW", kept=True,
    )  # fmt: skip
    units: Literal["auto", "rad", "degrees"] | None = option(
        "units of the dataset: rad with a gripper from 0 to 1, degrees with one from 0 to 100 (default: auto, detected "
        "from the values of joint_3)", None, kept=True,
    )  # fmt: skip
