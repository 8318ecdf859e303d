"""Where the files under ``assets/`` are, in a checkout and in an installed wheel."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def asset_path(*parts: str) -> Path:
    """Returns the path of a shipped asset.

    Args:
        *parts: Path components below ``assets/``, such as ``"mjcf", "parol6.xml"``.

    Raises:
        FileNotFoundError: The asset is not there; the installation is incomplete.
    """
    # A wheel carries the folder inside the package; a checkout (and an editable install) has it beside the package.
    for root in (_PACKAGE / "assets", _PACKAGE.parent / "assets"):
        path = root.joinpath(*parts)
        if path.exists():
            return path
    raise FileNotFoundError(f"The asset {'/'.join(parts)!r} is missing from this installation of smolvla-gym.")
