"""``smolvla-gym bench``: speed, memory and soundness of policies on this machine."""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from smolvla_gym.cli.options.agent import SCRIPTED, Dtype, check_policy
from smolvla_gym.cli.options.arguments import at_least, positive
from smolvla_gym.cli.options.parser import AddParser, Options, command, option
from smolvla_gym.cli.output import say
from smolvla_gym.cli.progress import progress_bar
from smolvla_gym.errors import OptionError, SmolVLAGymError
from smolvla_gym.utils.file_lock import lock_file

if TYPE_CHECKING:
    from smolvla_gym.benchmark.measure import BenchmarkOptions
    from smolvla_gym.benchmark.variant import Variant
    from smolvla_gym.benchmark.worker import Report

_RANDOM: Final = "random-450m"
_EXAMPLES: Final = f"""examples:
  smolvla-gym bench                                    the bundled policy
  smolvla-gym bench --policy {_RANDOM} --quick       SmolVLA's usual size, 450 M random weights, without the hub
  smolvla-gym bench --policy {_RANDOM} --dtype float32 --dtype bfloat16 --cameras 1 --cameras 3
                                                       four variants, and how far bfloat16 is from float32
  smolvla-gym bench --policy DIR --compare-dtype --inputs sim
                                                       the dtypes that pay on a GPU or CPU, on scenes of the simulation
  smolvla-gym bench --policy you/smolvla_parol6 --compile --json | jq '.variants[0].latency_ms'

Each variant runs in a process of its own. --compile compiles the stages of the fast sampler, or with --sampler
reference uses LeRobot's own switch (compile_model). On a CPU it needs a C++ compiler and takes minutes the first time,
on 2 cores 1 or 2 minutes for the bundled policy. The mode max-autotune takes longer and gains nothing on a CPU.

float16 is meant for GPUs. bfloat16 also pays on a CPU that has instructions for it (AVX512-BF16, AMX): almost twice as
fast as float32. Other CPUs run it several times slower.
"""


@dataclass(kw_only=True)
class BenchOptions(Options):
    """Options of ``smolvla-gym bench``."""

    policy: list[str] = option(
        f"bundled, {_RANDOM} (made in memory: 3 GB), a checkpoint folder, or a Hub repository OWNER/NAME; repeatable",
        ["bundled"], repeat=True, metavar="P",
    )  # fmt: skip
    dtype: list[Dtype] = option(
        "type of the weights; repeatable, several are compared with float32 (default: auto, as they were saved)", [],
        repeat=True,
    )  # fmt: skip
    compare_dtype: bool = option("compare with float32; without --dtype: bfloat16, and on a GPU float16 too", False)
    cameras: list[int] = option(f"cameras of {_RANDOM}; repeatable", [], repeat=True, parse=at_least(1), metavar="N")
    sampler: list[Literal["fast", "reference"]] = option(
        "fast: nothing is computed twice; reference: LeRobot's own code; repeatable (default: fast)", [], repeat=True
    )
    compare: bool = option(
        "measure the fast sampler and LeRobot's own code in turn, in one process, and the stages of a chunk", False
    )
    absent_cameras: int = option(
        f"further cameras that {_RANDOM} knows and that are absent", 0, parse=at_least(0), metavar="N"
    )
    num_steps: list[int] = option(
        "flow steps of a chunk; repeatable (default: the policy's)", [], repeat=True, parse=at_least(1), metavar="N"
    )
    device: str = option("device to compute on: auto, cpu, cuda, mps", "auto", metavar="D")
    compile: str | None = option(
        "use torch.compile in a mode such as default or max-autotune; see below", None, const="default", metavar="MODE"
    )
    chunks: int = option("chunks to measure", 100, parse=at_least(3), metavar="N")
    quick: bool = option("at most 10 chunks and 10 s of them a variant: a first impression", False)
    inputs: Literal["noise", "sim"] = option(
        "inputs of the actions that are evaluated: random images, or scenes of the simulation for a policy that has "
        "its cameras", "noise",
    )  # fmt: skip
    seed: int = option("seed of the inputs", 0, parse=at_least(0), metavar="S")
    target_ms: float = option("time of a chunk that is expected", 150.0, parse=positive, metavar="MS")
    target_rate: float = option("chunks a second that are expected", 7.0, parse=positive, metavar="HZ")
    target_gb: float = option("peak of the memory that is expected", 8.0, parse=positive, metavar="GB")
    strict: bool = option("exit with code 1 if a target is missed or a check fails", False)
    json: bool = option("print the result as JSON on stdout and nothing else there", False)
    out: Path | None = option("write the result as JSON to a file, too", None, metavar="FILE")


def run(chosen: BenchOptions) -> int:
    """Measure the variants and print the result."""
    from smolvla_gym.benchmark.measure import BenchmarkOptions
    from smolvla_gym.benchmark.result import Result, Targets
    from smolvla_gym.benchmark.tables import print_result
    from smolvla_gym.utils.json_file import save_json

    variants, out = _variants(chosen), chosen.out
    options = BenchmarkOptions(chunks=chosen.chunks, inputs=chosen.inputs, seed=chosen.seed)
    options = options.quick() if chosen.quick else options
    targets = Targets(chosen.target_ms, chosen.target_rate, chosen.target_gb)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.nullcontext() if out is None else lock_file(out):
        places = (f"{number} of {len(variants)}: {variant.name}" for number, variant in enumerate(variants, 1))
        result = Result(options, targets, {variant: _measure(variant, options, next(places)) for variant in variants})
        if not result.reports:
            raise next(iter(result.errors.values()))
        if out is not None:  # before the output, which may be a closed pipe
            save_json(out, result.to_dict(), "result")
    if chosen.json:
        print(json.dumps(result.to_dict()), flush=True)
    else:
        print_result(result)
        if out is not None:
            print(f"File: {out}")
    failed = any(not check.passed for checks in result.checks.values() for check in checks)
    return 1 if result.errors or (chosen.strict and failed) else 0


def _variants(chosen: BenchOptions) -> list[Variant]:
    """Return all combinations of the options.

    Raises:
        UnknownNameError: There is no policy of a name.
        OptionError: The arguments do not fit together.
    """
    from smolvla_gym.agent.checkpoint.load import check_options, resolve_device
    from smolvla_gym.benchmark.result import REFERENCE_DTYPE
    from smolvla_gym.benchmark.variant import Variant

    check_options("auto", chosen.compile)
    if chosen.out is not None and chosen.out.is_dir():
        raise OptionError("--out", str(chosen.out), "the name of a file; this is a folder")
    for policy in chosen.policy:
        if policy in SCRIPTED:
            raise OptionError("--policy", policy, "a SmolVLA policy")
        if policy != _RANDOM:
            check_policy(policy)
    dtypes: list[str] = list(chosen.dtype or ["auto"])
    if chosen.compare_dtype and not chosen.dtype:
        dtypes = ["bfloat16"] if resolve_device(chosen.device) == "cpu" else ["bfloat16", "float16"]
    if chosen.compare_dtype or len(set(dtypes)) > 1:
        dtypes = [REFERENCE_DTYPE, *dtypes]
    num_steps: list[int | None] = [*chosen.num_steps] or [None]
    cameras: list[int | None] = [*chosen.cameras] or [None]
    combinations = itertools.product(
        chosen.policy,
        num_steps,
        cameras,
        dtypes,
        chosen.sampler or ["fast"],
    )
    return [
        Variant(
            policy,
            dtype=dtype,
            device=chosen.device,
            cameras=number,
            num_steps=steps,
            compile_mode=chosen.compile,
            sampler=sampler,
            absent=chosen.absent_cameras,
            compare=chosen.compare,
        )
        for policy, steps, number, dtype, sampler in dict.fromkeys(combinations)
    ]


def _measure(variant: Variant, options: BenchmarkOptions, place: str) -> Report | SmolVLAGymError:
    """Measure a variant with its progress on standard error; an error leaves the other variants to be measured."""
    from smolvla_gym.benchmark.worker import run_variant

    chunks, last = 0, ""
    with progress_bar("chunk", options.chunks) as update:

        def progress(stage: str, done: int, total: int) -> None:
            nonlocal chunks, last
            chunks = done if stage == "chunks" else chunks
            text = f"{place}: {stage}{f' {done} of {total}' if total > 1 else ''}"
            update(chunks, text)
            if stage != last and not sys.stderr.isatty():
                say(text)
            last = stage

        try:
            return run_variant(variant, options, progress)
        except SmolVLAGymError as error:
            return error


add_parser: AddParser = command(
    "bench", BenchOptions, run, examples=_EXAMPLES,
    help="Measure a policy: speed, memory, soundness.",
    description="Measures policies and checks whether they are fast, small and sound enough.",
)  # fmt: skip
