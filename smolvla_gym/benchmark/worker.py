"""Measurement of a variant in a process of its own, which has no other policy's memory or imports."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import tempfile
import time
import traceback
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from smolvla_gym.agent.checkpoint.configuration import STATE
from smolvla_gym.benchmark.inputs import INPUTS
from smolvla_gym.benchmark.measure import Benchmark, BenchmarkOptions, Progress, ignore_progress, run_benchmark
from smolvla_gym.benchmark.variant import Variant, load_variant
from smolvla_gym.errors import InferenceError, MissingExtraError, SmolVLAGymError
from smolvla_gym.utils import signals

if TYPE_CHECKING:
    from smolvla_gym.benchmark.speedup import Speedup

_LAST_LINES: Final = 5
"""Lines of the worker's output that an error carries."""

_EXIT_TIMEOUT_S: Final = 10.0
"""Time in s in which the worker may end by itself."""


@dataclass(frozen=True, eq=False)
class Report:
    """Facts and figures of a variant.

    Attributes:
        variant: The variant.
        device: Device that it computed on.
        device_name: Name of that device; None for the CPU.
        threads: Number of torch's threads on the CPU.
        cameras: Size (height, width) in px of each image that it takes, by its own name for it.
        vision_size: Size that LeRobot resizes them to for the vision tower; None: they are not resized.
        parameters: Number of parameters in memory.
        left_out: Number of further parameters in its file that no chunk uses: the language head.
        dtypes: Number of parameters of each type.
        weights: Size of the parameters in bytes.
        import_s: Time that importing torch and LeRobot took in s.
        load_s: Time after that until the policy was ready in s.
        mask_dtype: Type of the language mask that its preprocessor makes.
        action_width: Components of an action.
        padded_width: Components that the network computes.
        benchmark: The figures.
        sampler: How its chunks were computed in fact.
        fallback: Why that is not the sampler of the variant; None: it is.
        speedup: The fast sampler against LeRobot's code; None without ``Variant.compare``.
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
        """Return the report for JSON, facts and figures on one level."""
        facts = {name: value for name, value in vars(self).items() if name not in ("variant", "benchmark", "speedup")}
        speedup = {} if self.speedup is None else {"speedup": asdict(self.speedup)}
        return {"asked": asdict(self.variant), **facts, **self.benchmark.to_dict(), **speedup}


def run_variant(
    variant: Variant, options: BenchmarkOptions | None = None, progress: Progress = ignore_progress
) -> Report:
    """Load and measure a variant in a worker process, which has ended when this returns or raises.

    Args:
        variant: The variant.
        options: Amount of the measurement.
        progress: Called in this process while the worker measures.

    Raises:
        SmolVLAGymError: Loading the variant raised it.
        InferenceError: Measuring failed, or the worker was killed, for example for want of memory; the notes have the
            last lines of its output.
    """
    # A forked copy of a process that has used torch's threads or a GPU does not work.
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder, receiver:
        log = Path(folder, "log")
        arguments = (sender, variant, options or BenchmarkOptions(), log)
        worker = context.Process(target=_work, args=arguments, name="benchmark")
        with signals.withheld():
            worker.start()
        sender.close()
        try:
            while isinstance(message := receiver.recv(), tuple):
                progress(*message)
            worker.join(_EXIT_TIMEOUT_S)  # if killed, it leaves files that torch.compile shares between processes
        except EOFError:
            worker.join()
            message = InferenceError(
                f"The process that measured {variant.policy!r} ended with exit code {worker.exitcode} before it was "
                "done. -9 mostly means that the memory of this machine was used up: close other programs, or use "
                "fewer cameras or dtype='bfloat16'."
            )
        finally:
            worker.kill()
            worker.join()
        if isinstance(message, InferenceError) and log.is_file():
            lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
            for line in lines[-_LAST_LINES:]:
                message.add_note(line)
    if isinstance(message, Report):
        return message
    raise message


def _work(sender: Connection, variant: Variant, options: BenchmarkOptions, log: Path) -> None:
    """Send the progress as tuples, then a report or an error. The process prints into a file."""
    signals.ignore_terminal()
    with log.open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.environ.setdefault("TQDM_DISABLE", "1")
    # A broken pipe means that the parent was killed; without this the worker would go on for hours.
    with contextlib.suppress(BrokenPipeError):
        try:
            sender.send(_measure(variant, options, lambda *state: sender.send(state)))
        except BrokenPipeError:
            raise
        except SmolVLAGymError as error:
            sender.send(error)
        except Exception as error:
            traceback.print_exc()
            line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
            sender.send(_failure(variant, f"{type(error).__name__}: {line[:300]}"))


def _failure(variant: Variant, why: str) -> InferenceError:
    hint = " torch.compile needs a C++ compiler on a CPU and Triton on a GPU: leave --compile out, or try another mode."
    return InferenceError(f"Measuring {variant.policy!r} failed ({why}).{hint if variant.compile_mode else ''}")


def _measure(variant: Variant, options: BenchmarkOptions, progress: Progress) -> Report:
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

    from smolvla_gym.agent.checkpoint.precision import count_dtypes
    from smolvla_gym.agent.policies.local import LocalPolicy
    from smolvla_gym.benchmark.speedup import measure_speedup

    def check_sampler() -> None:
        if policy.fallback is not None and (variant.compile_mode is not None or variant.compare):
            raise _failure(variant, f"LeRobot's own code has to compute the chunks: {policy.fallback}")

    check_sampler()
    benchmark = run_benchmark(policy, options, progress)
    check_sampler()  # compiling, which the first chunk does, may have failed
    checkpoint = policy.checkpoint
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
