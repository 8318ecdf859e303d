"""Serial numbers of the cameras of a dataset: one that is continued with other cameras should not go unnoticed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from smolvla_gym.errors import DatasetError
from smolvla_gym.utils.untrusted import printable


def compare_serials(root: Path, before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return how the cameras differ from those of the episodes that a dataset has, a sentence for each difference.

    Args:
        root: The folder of the dataset.
        before: Serial number of each camera by name at its latest episode; empty for simulated cameras.
        now: The same of the next episode.

    Raises:
        DatasetError: Cameras have exchanged their names, so that each would record the view of another one.
    """
    for name, serial in now.items():
        other = next((known for known, its in before.items() if its == serial and known != name), None)
        if serial and other is not None and before.get(name) != serial:
            raise DatasetError(
                f"The dataset in {root} cannot be continued: its camera {printable(other)} has the serial number "
                f"{serial}, which is now that of {name}. Exchange the serial numbers of the cameras, or choose another "
                "folder."
            )
    if not before and not now:
        return []
    if not before or not now:
        kinds = ("simulated cameras", "real ones or the twin's")
        earlier, present = kinds if not before else kinds[::-1]
        return [f"The episodes in {root} have {earlier}, or are of an earlier release, and the next ones {present}."]
    return [
        f"The camera {name} has the serial number {serial or 'none'}, and in the episodes in {root} it has "
        f"{printable(before[name], 64) or 'none'}. Check that it sees what the other one saw."
        for name, serial in now.items()
        if before.get(name, serial) != serial
    ]
