.PHONY: setup test docs bench

setup:
	uv sync

test:
	uv run pytest

docs:
	uv run --group docs sphinx-build -W -n -q docs docs/_build

bench:
	uv run smolvla-gym bench
	uv run python examples/benchmark_sim.py
