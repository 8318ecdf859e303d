import pytest

from smolvla_gym.cli import progress


@pytest.fixture(autouse=True)
def _no_progress_lines(monkeypatch):
    """On a busy machine short commands take long enough for one."""
    monkeypatch.setattr(progress, "FIRST_S", 3600.0)
    monkeypatch.setattr(progress, "EVERY_S", 3600.0)
