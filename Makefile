.PHONY: setup types test docs bench

setup:
	uv sync

types:
	uv run mypy
	uv run pytest -n 0 -m slow tests/test_public_types.py

test:
	uv run pytest

docs:
	uv run --group docs sphinx-build -W -n -q docs docs/_build

bench:
	uv run smolvla-gym bench
	uv run python examples/benchmark_sim.py
