.PHONY: setup types test lowest docs bench

setup:
	uv sync

types:
	uv run mypy
	uv run pytest -n 0 -m slow tests/test_public_types.py

test:
	uv run pytest

# With other versions of the dependencies: make lowest RESOLUTION=highest EXTRAS="real view" TESTS=tests/drivers
RESOLUTION ?= lowest-direct
EXTRAS ?= real
TESTS ?= tests/sim tests/tasks tests/envs
lowest:
	uv venv -q --clear .venv-lowest
	uv pip install -q --python .venv-lowest --resolution $(RESOLUTION) -r pyproject.toml $(EXTRAS:%=--extra %)
	uv pip install -q --python .venv-lowest --no-deps --editable .
	uv pip install -q --python .venv-lowest hypothesis psutil 'pytest>=8.3,<9.1' pytest-timeout pytest-xdist sybil
	uv pip list --python .venv-lowest
	MUJOCO_GL=egl .venv-lowest/bin/pytest -m 'not realtime and not slow' $(TESTS)

docs:
	uv run --group docs sphinx-build -W -n -q docs docs/_build

bench:
	uv run smolvla-gym bench
	uv run python examples/benchmark_sim.py
