.PHONY: setup test docs bench

setup:
	uv sync

test:
	uv run pytest -n 2 -m "not realtime and not slow"
	uv run pytest -m "realtime and not slow"

docs:
	uv run --group docs sphinx-build -W -n -q docs docs/_build

bench:
	uv run smolvla-gym bench
	uv run python examples/benchmark_sim.py
