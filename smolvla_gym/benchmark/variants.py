"""A policy under certain options, measured in a process of its own: no other policy's memory or imports are in it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from smolvla_gym.agent.checkpoint.configuration import STATE
from smolvla_gym.benchmark.benchmark import Benchmark, BenchmarkOptions, Progress, run_benchmark
from smolvla_gym.benchmark.inputs import INPUTS
from smolvla_gym.errors import InferenceError, MissingExtraError, OptionError, PolicyMismatchError, SmolVLAGymError
from smolvla_gym.training.random_450m import MAX_CAMERAS, RANDOM_450M, build_random_450m
from smolvla_gym.utils import signals

if TYPE_CHECKING:
    from smolvla_gym.agent.policies.local import LocalPolicy
    from smolvla_gym.benchmark.speedup import Speedup

_LAST_LINES: Final = 5
_TO_END: Final = 10.0
"""How long the process may take to end by itself, in s."""


@dataclass(frozen=True)
class Variant:
    """A policy and how it is run.

    Attributes:
        policy: ``"bundled"``, ``"random-450m"``, a folder or a repository.
        dtype: Of its weights, see ``load_checkpoint``.
        device: Where it computes.
        cameras: How many it looks through; None: a checkpoint's own, and one of ``random-450m``.
        num_steps: Flow steps a chunk; None: the checkpoint's.
        compile_mode: A mode of ``torch.compile``; None: it is not compiled.
        sampler: How chunks are computed, see ``LocalPolicy``.
        absent: How many cameras more ``random-450m`` knows than there are.
        compare: Whether the fast sampler is also measured against LeRobot's code, which is never compiled then.
    """

    policy: str
    dtype: str = "auto"
    device: str = "auto"
    cameras: int | None = None
    num_steps: int | None = None
    compile_mode: str | None = None
    sampler: str = "fast"
    absent: int = 0
    compare: bool = False

    def __post_init__(self) -> None:
        """Checks them.

        Raises:
            OptionError: A checkpoint was given a number of cameras, or there are too many.
        """
        if self.cameras is not None and not 1 <= self.cameras <= MAX_CAMERAS:
            raise OptionError("cameras", self.cameras, f"from 1 to {MAX_CAMERAS}")
        if self.cameras is not None and self.policy != RANDOM_450M:
            allowed = f"only with {RANDOM_450M}: a checkpoint has the cameras that it was trained with"
            raise OptionError("cameras", self.cameras, allowed)
        if self.absent and self.policy != RANDOM_450M:
            raise OptionError("absent", self.absent, f"only with {RANDOM_450M}")
        if self.compare and self.sampler != "fast":
            raise OptionError("sampler", self.sampler, "'fast', where it is compared with LeRobot's code")


@dataclass(frozen=True, eq=False)
class Report:
    """What became of a variant.

    Attributes:
        variant: The variant.
        device: Where it computed.
        device_name: What that is called; None: the CPU.
        threads: Of torch, on the CPU.
        cameras: Size (height, width) in px of each picture it looks at, by its own name for it.
        vision_size: What LeRobot resizes them to before the vision tower sees them; None: nothing.
        parameters: How many it has in memory.
        left_out: How many more its file has, which no chunk uses: the language head.
        dtypes: How many of each type.
        weights: What they take in bytes.
        import_s: Time that importing torch and LeRobot took in s.
        load_s: Time after that until the policy was ready.
        mask_dtype: Type of the language mask that its preprocessor makes.
        action_width: Components of an action.
        padded_width: Components that the network computes.
        benchmark: What was measured.
        sampler: How its chunks were computed in fact.
        fallback: Why that is not what was asked for; None: it is.
        speedup: The fast sampler against LeRobot's code, where that was asked for.
    """

    variant: Variant
    device: str
    device_name: str | None
    threads: int
    cameras: dict[str, tuple[int, int]]
    vision_size: tuple[int, int] | None
    parameters: int
    left_out: int
    dtypes: dict[str, int]
    weights: int
    import_s: float
    load_s: float
    mask_dtype: str
    action_width: int
    padded_width: int
    benchmark: Benchmark
    sampler: str = "fast"
    fallback: str | None = None
    speedup: Speedup | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns it for JSON, all on one level."""
        fields = {name: value for name, value in vars(self).items() if name not in ("variant", "benchmark", "speedup")}
        speedup = {} if self.speedup is None else {"speedup": self.speedup.to_dict()}
        return {**{"asked": asdict(self.variant)}, **fields, **self.benchmark.to_dict(), **speedup}


def load_variant(variant: Variant) -> LocalPolicy:
    """Loads a variant into this process.

    Raises:
        CheckpointError: It is absent, cannot be downloaded, or is broken.
        PolicyMismatchError: It cannot drive this arm.
        OptionError: An option has a value that is not allowed.
        MissingExtraError: torch, transformers or lerobot is not installed.
    """
    from smolvla_gym.agent.checkpoint.load import load_checkpoint
    from smolvla_gym.agent.policies.local import LocalPolicy

    fast = variant.sampler == "fast"
    options: dict[str, Any] = {
        "device": variant.device,
        "dtype": variant.dtype,
        "compile_mode": None if fast else variant.compile_mode,
    }
    if variant.policy == RANDOM_450M:
        checkpoint = build_random_450m(variant.cameras or 1, absent=variant.absent, **options)
    else:
        try:
            checkpoint = load_checkpoint(variant.policy, **options)
        except PolicyMismatchError as error:
            error.add_note(f"how fast a SmolVLA of the usual size is here shows without it: --policy {RANDOM_450M}")
            raise
    return LocalPolicy(
        checkpoint,
        num_steps=variant.num_steps,
        name=variant.policy,
        sampler=variant.sampler,
        compile_mode=variant.compile_mode if fast else None,
    )


def run_variant(
    variant: Variant,
    options: BenchmarkOptions | None = None,
    progress: Progress = lambda doing, done, total: None,
) -> Report:
    """Loads and measures a variant in a process of its own, which is gone when this returns or raises.

    Args:
        variant: The variant.
        options: How much is measured.
        progress: Called in this process, while the other one works.

    Raises:
        SmolVLAGymError: What loading raised there.
        InferenceError: Measuring failed, or the process was killed, for example for want of memory; the notes have
            what it printed last.
    """
    # A fork of a process that has used torch's threads or a GPU is broken.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        job = (theirs, variant, options or BenchmarkOptions(), log)
        process = context.Process(target=_work, args=job, name="benchmark", daemon=False)
        with signals.withheld():
            process.start()
        theirs.close()
        try:
            while True:
                kind, value = ours.recv()
                if kind == "progress":
                    progress(*value)
                    continue
                process.join(_TO_END)  # killed, it would leave what torch.compile shares between processes
                if kind == "error":
                    raise value
                return value  # type: ignore[no-any-return]
        except EOFError:
            process.join()
            killed = InferenceError(
                f"The process that measured {variant.policy!r} ended with exit code {process.exitcode} before it was "
                "done. -9 mostly means that the memory of this machine was used up: close other programs, or take "
                "fewer cameras or dtype='bfloat16'."
            )
            _add_lines(killed, log)
            raise killed from None
        except InferenceError as error:
            _add_lines(error, log)
            raise
        finally:
            ours.close()
            process.kill()
            process.join()


def _add_lines(error: Exception, log: Path) -> None:
    text = log.read_text(errors="replace") if log.is_file() else ""
    lines = [line for line in text.splitlines() if line.strip()]
    for line in lines[-_LAST_LINES:]:
        error.add_note(line)


def _work(connection: Connection, variant: Variant, options: BenchmarkOptions, log: Path) -> None:
    """Measures a variant; what it prints goes to a file, and what comes out of it to the connection."""
    signals.ignore_terminal()
    with log.open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.environ.setdefault("TQDM_DISABLE", "1")

    def progress(doing: str, done: int, total: int) -> None:
        connection.send(("progress", (doing, done, total)))

    # Without this the process would go on for hours after the one that started it was killed.
    with contextlib.suppress(BrokenPipeError):
        try:
            connection.send(("report", _measure(variant, options, progress)))
        except BrokenPipeError:
            raise
        except SmolVLAGymError as error:
            connection.send(("error", error))
        except Exception as error:
            traceback.print_exc()
            connection.send(("error", _explain(error, variant)))


def _explain(error: Exception, variant: Variant) -> SmolVLAGymError:
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")[:300]
    if variant.compile_mode is not None:
        return _not_compiled(variant, f"{type(error).__name__}: {text}")
    return InferenceError(f"Measuring {variant.policy!r} failed ({type(error).__name__}: {text}).")


def _not_compiled(variant: Variant, why: str) -> InferenceError:
    return InferenceError(
        f"{variant.policy!r} could not be run with torch.compile, mode {variant.compile_mode!r} ({why}). On a CPU it "
        "needs a C++ compiler, on a GPU Triton. Leave it out, or try another mode."
    )


def _not_fast(variant: Variant, why: str) -> InferenceError:
    return InferenceError(
        f"{variant.policy!r} is computed by LeRobot's own code, not by the fast sampler that was to be measured: "
        f"{why}. Leave --compare and --compile out, or take --sampler reference."
    )


def _measure(variant: Variant, options: BenchmarkOptions, progress: Callable[[str, int, int], None]) -> Report:
    progress("import", 0, 1)
    start = time.perf_counter()
    try:
        import torch
        from lerobot.policies.smolvla import modeling_smolvla  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("Measuring a policy", "smolvla", error) from error
    imported = time.perf_counter()
    progress("load", 0, 1)
    policy = load_variant(variant)
    loaded = time.perf_counter()
    if policy.fallback is not None and (variant.compile_mode is not None or variant.compare):
        raise _not_fast(variant, policy.fallback)
    from smolvla_gym.agent.checkpoint.precision import count_dtypes
    from smolvla_gym.agent.policies.local import LocalPolicy
    from smolvla_gym.benchmark.speedup import measure_speedup

    checkpoint = policy.checkpoint
    benchmark = run_benchmark(policy, options, progress)
    if policy.fallback is not None and variant.compile_mode is not None:
        raise _not_compiled(variant, policy.fallback)
    if policy.fallback is not None and variant.compare:
        raise _not_fast(variant, policy.fallback)
    speedup = None
    if variant.compare and not benchmark.not_finite:
        reference = LocalPolicy(checkpoint, num_steps=variant.num_steps, name=variant.policy, sampler="reference")
        requests = INPUTS[options.inputs](policy.card, max(options.samples, 2), options.seed)
        speedup = measure_speedup(policy, reference, requests, options, progress)
    parameters = list(checkpoint.policy.parameters())
    resized = checkpoint.policy.config.resize_imgs_with_padding  # width first
    batch = checkpoint.preprocessor({"task": "try", STATE: torch.zeros(checkpoint.spec.action_dim)})
    return Report(
        variant=variant,
        device=checkpoint.device,
        device_name=torch.cuda.get_device_name(checkpoint.device) if checkpoint.device.startswith("cuda") else None,
        threads=torch.get_num_threads(),
        cameras=dict(checkpoint.spec.cameras),
        vision_size=(int(resized[1]), int(resized[0])) if resized else None,
        parameters=sum(parameter.numel() for parameter in parameters),
        left_out=checkpoint.left_out,
        dtypes=count_dtypes(checkpoint.policy),
        weights=sum(parameter.numel() * parameter.element_size() for parameter in parameters),
        import_s=imported - start,
        load_s=loaded - imported,
        mask_dtype=str(batch["observation.language.attention_mask"].dtype),
        action_width=checkpoint.spec.action_dim,
        padded_width=policy.card.noise_width,
        benchmark=benchmark,
        sampler=policy.sampler,
        fallback=policy.fallback,
        speedup=speedup,
    )
