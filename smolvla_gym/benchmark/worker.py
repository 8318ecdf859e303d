"""Measurement of a variant in a worker process, which has no other policy's memory or imports."""

from __future__ import annotations

import os
import time
import traceback
from dataclasses import asdict, replace
from typing import Final

from smolvla_gym.benchmark.measure import Progress, measure
from smolvla_gym.benchmark.report import Report
from smolvla_gym.benchmark.variant import Variant
from smolvla_gym.errors import InferenceError, MissingExtraError, SmolVLAGymError
from smolvla_gym.ipc import Parent, Worker, WorkerExitedError, pack_object, unpack_object

_EXIT_TIMEOUT_S: Final = 10.0
"""Time in s in which the worker may end by itself: killed, it leaves files that torch.compile shares."""


def run_variant(variant: Variant, progress: Progress = lambda *state: None) -> Report:
    """Load and measure a variant in a worker process, which has ended when this returns or raises.

    Args:
        variant: The variant.
        progress: Called in this process while the worker measures.

    Raises:
        SmolVLAGymError: Loading the variant raised it.
        InferenceError: Measuring failed, or the worker was killed, for example for want of memory.
    """
    worker = Worker("smolvla_gym.benchmark.worker")
    try:
        reply = worker.request("measure", variant=asdict(variant), progress=lambda state: progress(*state))
        worker.exit_status(_EXIT_TIMEOUT_S)
    except WorkerExitedError as error:
        raise InferenceError(
            f"The process that measured {variant.policy!r} ended with exit code {error.status} before it was done. -9 "
            "mostly means that the memory of this machine was used up: close other programs, or use fewer cameras or "
            "dtype='bfloat16'."
        ) from None
    finally:
        worker.kill(_EXIT_TIMEOUT_S)
    report: Report = unpack_object(reply)
    return report


def main(parent: Parent) -> int:
    """Measure the variant of one request; return the exit status."""
    request = next(parent.requests, None)
    if request is None:
        return 0
    parent.exit_with()
    os.environ.setdefault("TQDM_DISABLE", "1")
    variant = Variant(**request.arguments["variant"])
    try:
        request.reply(pack_object(_measure(variant, lambda *state: request.report_progress(state))))
    except SmolVLAGymError as error:
        request.fail(error)
    except Exception as error:
        traceback.print_exc()
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        request.fail(InferenceError(f"Measuring {variant.policy!r} failed ({why})."))
    return 0


def _measure(variant: Variant, progress: Progress) -> Report:
    progress("import", 0, 1)
    start = time.perf_counter()
    try:
        from lerobot.policies.smolvla import modeling_smolvla  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("Measuring a policy", "smolvla", error) from error
    from smolvla_gym.benchmark.stages import measure_speedup

    imported = time.perf_counter()
    progress("load", 0, 1)
    policy = variant.load()
    loaded = time.perf_counter()
    report = measure(policy, variant, progress)
    speedup = measure_speedup(policy, variant, progress) if variant.compare and not report.not_finite else None
    return replace(report, import_s=imported - start, load_s=loaded - imported, speedup=speedup)
