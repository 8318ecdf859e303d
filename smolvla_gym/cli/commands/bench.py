"""``smolvla-gym bench``: speed, memory and soundness of policies on this machine."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from smolvla_gym.cli.options.agent import DTYPES, SCRIPTED, check_policy
from smolvla_gym.cli.options.arguments import at_least, positive
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


def add_parser(commands: Any) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser(
        "bench",
        help="Measure a policy: speed, memory, soundness.",
        description="Measure policies and check whether they are fast, small and sound enough.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument_group("variants").add_argument
    add(
        "--policy",
        action="append",
        metavar="P",
        help=f"bundled, {_RANDOM} (made in memory: 3 GB), a checkpoint folder, or a Hub repository OWNER/NAME; "
        "repeatable (default: bundled)",
    )
    add(
        "--dtype",
        action="append",
        choices=DTYPES,
        help="type of the weights; repeatable, several are compared with float32 (default: auto, as they were saved)",
    )
    add(
        "--compare-dtype",
        action="store_true",
        help="compare with float32; without --dtype: bfloat16, and on a GPU float16 too",
    )
    add("--cameras", action="append", type=at_least(1), metavar="N", help=f"cameras of {_RANDOM}; repeatable")
    add(
        "--sampler",
        action="append",
        choices=("fast", "reference"),
        help="fast: nothing is computed twice; reference: LeRobot's own code; repeatable (default: fast)",
    )
    add(
        "--compare",
        action="store_true",
        help="measure the fast sampler and LeRobot's own code in turn, in one process, and the stages of a chunk",
    )
    add(
        "--absent-cameras",
        type=at_least(0),
        default=0,
        metavar="N",
        help=f"further cameras that {_RANDOM} knows and that are absent (default: %(default)s)",
    )
    add(
        "--num-steps",
        action="append",
        type=at_least(1),
        metavar="N",
        help="flow steps of a chunk; repeatable (default: the policy's)",
    )
    add("--device", default="auto", metavar="D", help="device to compute on: auto, cpu, cuda, mps (default: auto)")
    add(
        "--compile",
        nargs="?",
        const="default",
        metavar="MODE",
        help="use torch.compile in a mode such as default or max-autotune; see below",
    )
    add = parser.add_argument_group("measurement").add_argument
    add("--chunks", type=at_least(3), default=100, metavar="N", help="chunks to measure (default: %(default)s)")
    add("--quick", action="store_true", help="at most 10 chunks and 10 s of them a variant: a first impression")
    add(
        "--inputs",
        choices=("noise", "sim"),
        default="noise",
        help="inputs of the actions that are evaluated: random images, or scenes of the simulation for a policy that "
        "has its cameras (default: %(default)s)",
    )
    add("--seed", type=at_least(0), default=0, metavar="S", help="seed of the inputs (default: %(default)s)")
    add = parser.add_argument_group("targets").add_argument
    add("--target-ms", type=positive, default=150.0, metavar="MS", help="time of a chunk (default: %(default)g)")
    add("--target-rate", type=positive, default=7.0, metavar="HZ", help="chunks a second (default: %(default)g)")
    add("--target-gb", type=positive, default=8.0, metavar="GB", help="peak of the memory (default: %(default)g)")
    add("--strict", action="store_true", help="exit with code 1 if a target is missed or a check fails")
    add = parser.add_argument_group("output").add_argument
    add("--json", action="store_true", help="print the result as JSON on stdout and nothing else there")
    add("--out", type=Path, metavar="FILE", help="write the result as JSON to a file, too")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure the variants and print the result."""
    from smolvla_gym.benchmark.measure import BenchmarkOptions
    from smolvla_gym.benchmark.result import Result, Targets
    from smolvla_gym.benchmark.tables import print_result
    from smolvla_gym.utils.json_file import save_json

    variants, out = _variants(arguments), arguments.out
    options = BenchmarkOptions(chunks=arguments.chunks, inputs=arguments.inputs, seed=arguments.seed)
    options = options.quick() if arguments.quick else options
    targets = Targets(arguments.target_ms, arguments.target_rate, arguments.target_gb)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.nullcontext() if out is None else lock_file(out):
        places = (f"{number} of {len(variants)}: {variant.name}" for number, variant in enumerate(variants, 1))
        result = Result(options, targets, {variant: _measure(variant, options, next(places)) for variant in variants})
        if not result.reports:
            raise next(iter(result.errors.values()))
        if out is not None:  # before the output, which may be a closed pipe
            save_json(out, result.to_dict(), "result")
    if arguments.json:
        print(json.dumps(result.to_dict()), flush=True)
    else:
        print_result(result)
        if out is not None:
            print(f"File: {out}")
    failed = any(not check.passed for checks in result.checks.values() for check in checks)
    return 1 if result.errors or (arguments.strict and failed) else 0


def _variants(arguments: argparse.Namespace) -> list[Variant]:
    """Return all combinations of the options.

    Raises:
        UnknownNameError: There is no policy of a name.
        OptionError: The arguments do not fit together.
    """
    from smolvla_gym.agent.checkpoint.load import check_options, resolve_device
    from smolvla_gym.benchmark.result import REFERENCE_DTYPE
    from smolvla_gym.benchmark.variant import Variant

    check_options("auto", arguments.compile)
    if arguments.out is not None and arguments.out.is_dir():
        raise OptionError("--out", str(arguments.out), "the name of a file; this is a folder")
    policies = arguments.policy or ["bundled"]
    for policy in policies:
        if policy in SCRIPTED:
            raise OptionError("--policy", policy, "a SmolVLA policy")
        if policy != _RANDOM:
            check_policy(policy)
    dtypes = arguments.dtype or ["auto"]
    if arguments.compare_dtype and not arguments.dtype:
        dtypes = ["bfloat16"] if resolve_device(arguments.device) == "cpu" else ["bfloat16", "float16"]
    if arguments.compare_dtype or len(set(dtypes)) > 1:
        dtypes = [REFERENCE_DTYPE, *dtypes]
    combinations = itertools.product(
        policies, arguments.num_steps or [None], arguments.cameras or [None], dtypes, arguments.sampler or ["fast"]
    )
    return [
        Variant(
            policy,
            dtype=dtype,
            device=arguments.device,
            cameras=cameras,
            num_steps=num_steps,
            compile_mode=arguments.compile,
            sampler=sampler,
            absent=arguments.absent_cameras,
            compare=arguments.compare,
        )
        for policy, num_steps, cameras, dtype, sampler in dict.fromkeys(combinations)
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
                print(f"smolvla-gym: {text}", file=sys.stderr, flush=True)
            last = stage

        try:
            return run_variant(variant, options, progress)
        except SmolVLAGymError as error:
            return error
