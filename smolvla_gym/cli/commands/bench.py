"""``smolvla-gym bench``: speed, memory and soundness of policies on this machine."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from smolvla_gym.cli.options.agent import Dtype, check_checkpoint_policy, compile_mode
from smolvla_gym.cli.options.arguments import at_least
from smolvla_gym.cli.options.parser import AddParser, Options, command, option
from smolvla_gym.cli.output import say
from smolvla_gym.cli.progress import progress_bar
from smolvla_gym.errors import SmolVLAGymError

if TYPE_CHECKING:
    from smolvla_gym.benchmark.report import Report
    from smolvla_gym.benchmark.variant import Variant

_RANDOM: Final = "random-450m"
_EXAMPLES: Final = f"""examples:
  smolvla-gym bench                                    the bundled policy
  smolvla-gym bench --policy {_RANDOM} --quick       SmolVLA's usual size, 450 M random weights, without the hub
  smolvla-gym bench --policy {_RANDOM} --dtype float32 --dtype bfloat16 --cameras 1 --cameras 3
                                                       four variants, and how far bfloat16 is from float32
  smolvla-gym bench --compare                          beside LeRobot's own code, and where the time goes
  smolvla-gym bench --policy you/smolvla_parol6 --compile --json | jq '.variants[0].latency_ms'

Each variant runs in a process of its own. On a CPU --compile needs a C++ compiler and takes minutes the first time, on
2 cores 1 or 2 minutes for the bundled policy. The mode max-autotune takes longer and gains nothing on a CPU.

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
    cameras: list[int] = option(f"cameras of {_RANDOM}; repeatable", [], repeat=True, parse=at_least(1, 8), metavar="N")
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
        "use torch.compile in a mode such as default or max-autotune; see below",
        None,
        const="default",
        parse=compile_mode,
        metavar="MODE",
    )
    chunks: int = option("chunks to measure", 100, parse=at_least(3), metavar="N")
    quick: bool = option("at most 10 chunks and 10 s of them a variant: a first impression", False)
    inputs: Literal["noise", "sim"] = option(
        "inputs of the actions that are evaluated: random images, or scenes of the simulation for a policy that has "
        "its cameras", "noise",
    )  # fmt: skip
    strict: bool = option("exit with code 1 if a check fails", False)
    json: bool = option("print the result as JSON on stdout and nothing else there", False)

    def check(self) -> None:
        """Refuse what would fail later, after the seconds that a policy takes to load.

        Raises:
            UnknownNameError: There is no policy of a name.
            OptionError: The arguments do not fit together.
        """
        for policy in self.policy:
            if policy != _RANDOM:
                check_checkpoint_policy(policy, "--policy")
        if set(self.policy) != {_RANDOM}:
            for name in ("cameras", "absent_cameras"):
                if getattr(self, name):
                    self.refuse(name, f"only with {_RANDOM}: a checkpoint has the cameras that it was trained with")

    def variants(self) -> list[Variant]:
        """Return all combinations of the options."""
        from smolvla_gym.benchmark.variant import Variant

        dtypes = ["float32", *self.dtype] if len(set(self.dtype)) > 1 else [*self.dtype] or ["auto"]
        amount: dict[str, int] = {"chunks": self.chunks}
        if self.quick:
            amount = {"chunks": min(self.chunks, 10), "warm_up": 1, "budget_s": 10, "samples": 2}
        steps: list[int | None] = [*self.num_steps] or [None]
        cameras: list[int | None] = [*self.cameras] or [None]
        combinations = itertools.product(self.policy, steps, cameras, dtypes)
        return [
            Variant(
                policy,
                dtype=dtype,
                device=self.device,
                cameras=number,
                absent_cameras=self.absent_cameras,
                num_steps=num_steps,
                compile_mode=self.compile,
                compare=self.compare,
                inputs=self.inputs,
                **amount,
            )
            for policy, num_steps, number, dtype in dict.fromkeys(combinations)
        ]


def run(options: BenchOptions) -> int:
    """Measure the variants and print the result."""
    from smolvla_gym.benchmark.machine import describe_machine
    from smolvla_gym.benchmark.report import compare_reports
    from smolvla_gym.benchmark.tables import print_reports

    options.check()
    reports: list[Report] = []
    errors: dict[str, SmolVLAGymError] = {}
    for variant in options.variants():
        try:
            reports.append(_measure(variant))
        except SmolVLAGymError as error:  # the other variants are measured all the same
            errors[variant.name] = error
    if not reports:
        raise next(iter(errors.values()))
    if options.json:
        rows = [report.to_dict() for report in reports]
        rows += [{"name": name, "error": str(problem)} for name, problem in errors.items()]
        differences = compare_reports(reports)
        print(json.dumps({"machine": describe_machine(), "variants": rows, "differences": differences}), flush=True)
    else:
        print_reports(reports)
        for name, problem in errors.items():
            print("\n  ".join([f"{name}: could not be measured: {problem}", *getattr(problem, "__notes__", ())]))
    failed = any(report.failed for report in reports)
    return 1 if errors or (options.strict and failed) else 0


def _measure(variant: Variant) -> Report:
    """Measure a variant with its progress on standard error."""
    from smolvla_gym.benchmark.worker import run_variant

    say(f"measuring {variant.name} …")
    with progress_bar("chunk", variant.chunks, text="import") as show:

        def progress(stage: str, done: int, total: int) -> None:
            show(done if stage == "chunks" else 0, f"{stage} {done} of {total}")

        return run_variant(variant, progress)


add_parser: AddParser = command(
    "bench", BenchOptions, run, examples=_EXAMPLES,
    help="Measure a policy: speed, memory, soundness.",
    description="Measures policies and checks whether they are fast, small and sound enough.",
)  # fmt: skip
