"""The agent on the command line: which policy, and how its chunks are put together."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from smolvla_gym.cli.options.arguments import at_least
from smolvla_gym.errors import OptionError, UnknownNameError

if TYPE_CHECKING:
    from smolvla_gym.agent import SmolVLAAgent

SCRIPTED: Final = ("expert", "random")
"""Policies that are no checkpoints."""

DTYPES: Final = ("auto", "float32", "bfloat16", "float16")
"""As the agent has them, whose module needs torch."""

_MODES: Final = ("sync", "async", "rtc")
_ADDRESS: Final = re.compile(r"wss?://\S+|[^/\s:]+:\d+|\[[\da-fA-F:]+\]:\d+")
_REPOSITORY: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def add_arguments(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Adds the options of a SmolVLA agent; ``several``: more than one mode and latency may be given."""
    modes: dict[str, Any] = {"default": None}
    latencies: dict[str, Any] = {"default": None}
    steps: dict[str, Any] = {"default": None}
    if several:
        modes, latencies = {"nargs": "+", "default": ["sync"]}, {"nargs": "+", "default": [0.0]}
        steps = {"nargs": "+", "default": [None]}
    add = parser.add_argument_group("SmolVLA agent").add_argument
    add_computing(add)
    add_camera_map(add)
    add(
        "--allow-mismatch",
        action="store_true",
        help="only warn where the policy was trained at another control rate or with another gripper",
    )
    add(
        "--mode",
        choices=_MODES,
        **modes,
        help="sync: infer when the queue is empty; async: while it plays; rtc: async, each chunk continuing the one "
        "before (default: sync in simulated time, rtc in real time)",
    )
    add(
        "--latency-ms",
        type=float,
        metavar="MS",
        **latencies,
        help="how long a chunk takes: exactly in simulated time, at least in real time (default: 0)",
    )
    add("--num-steps", type=at_least(1), metavar="N", **steps, help="flow steps a chunk (default: the policy's)")
    add("--n-action-steps", type=int, metavar="N", help="actions of a chunk to execute (default: the policy's; or all)")
    add(
        "--queue-threshold",
        type=int,
        metavar="N",
        help="actions left when the next chunk is asked for (default: half of those to execute, or more where the "
        "policy's own number is smaller)",
    )
    add(
        "--aggregate",
        metavar="NAME",
        help="how async makes one of two chunks, and in real time async itself (default: weighted_average)",
    )


def add_computing(add: Callable[..., Any]) -> None:
    """Adds the options that say where and how chunks are computed; ``add``: of a parser or of a group of it."""
    add("--device", default="auto", metavar="D", help="where the policy computes: auto, cpu, cuda, mps (default: auto)")
    add(
        "--dtype",
        choices=DTYPES,
        default="auto",
        help="the type that it computes in; auto: that of its weights (default: auto)",
    )
    add(
        "--compile",
        nargs="?",
        const="default",
        metavar="MODE",
        help="use torch.compile in a mode such as default or max-autotune; the first chunk then takes minutes",
    )


def add_camera_map(add: Callable[..., Any]) -> None:
    """Add the option that says what the policy's cameras are; ``add``: of a parser or of a group of it."""
    add(
        "--camera-map",
        nargs="+",
        type=_pair,
        default=[],
        metavar="ITS=ENV",
        help="the env's camera for each of the policy's whose name differs, such as camera1=wrist camera2=scene; "
        "camera3=none leaves out one that training never saw",
    )


def _pair(text: str) -> tuple[str, str | None]:
    camera, equals, env_camera = text.partition("=")
    if not (camera and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form camera1=wrist, or camera3=none to leave it out")
    return camera, None if env_camera.lower() in ("", "none") else env_camera


def is_address(policy: str) -> bool:
    """Tells whether a policy is the address of a server."""
    return not Path(policy).exists() and _ADDRESS.fullmatch(policy) is not None


def check_policy(policy: str) -> None:
    """Refuses policies that cannot exist.

    Raises:
        UnknownNameError: There is no policy of this name.
    """
    if policy in ("bundled", *SCRIPTED) or is_address(policy):
        return
    if not Path(policy).exists() and not _REPOSITORY.fullmatch(policy):
        known = ("bundled", *SCRIPTED, "an existing folder", "a Hub repository OWNER/NAME", "HOST:PORT of a server")
        raise UnknownNameError("policy", policy, known)


def check(arguments: argparse.Namespace) -> None:
    """Refuses options that have no meaning, before the seconds that a policy takes to load.

    Raises:
        OptionError: One has a value that is not allowed.
        UnknownNameError: There is no policy or aggregate of this name.
    """
    check_policy(arguments.policy)
    local = {
        "--device": None if arguments.device == "auto" else arguments.device,
        "--dtype": None if arguments.dtype == "auto" else arguments.dtype,
        "--compile": arguments.compile,
        "--num-steps": arguments.num_steps,
    }
    given = {
        **local,
        "--camera-map": arguments.camera_map or None,
        "--allow-mismatch": arguments.allow_mismatch or None,
        "--mode": arguments.mode,
        "--latency-ms": arguments.latency_ms,
        "--n-action-steps": arguments.n_action_steps,
        "--queue-threshold": arguments.queue_threshold,
        "--aggregate": arguments.aggregate,
    }
    if arguments.latency_ms is not None:
        from smolvla_gym.agent.inference_runner import check_latency

        check_latency(arguments.latency_ms)
    if arguments.policy in SCRIPTED:
        for name, value in given.items():
            if value is not None:
                raise OptionError(name, value, "only with a SmolVLA policy")
    if is_address(arguments.policy):
        for name, value in local.items():
            if value is not None:
                raise OptionError(name, value, "only with a policy on this machine; `smolvla-gym serve` takes it there")
    check_compile(arguments.compile)
    if arguments.aggregate is not None:
        from smolvla_gym.agent.aggregation import get_aggregate

        get_aggregate(arguments.aggregate)


def check_compile(mode: str | None) -> None:
    """Refuses a mode that torch.compile does not have.

    Raises:
        OptionError: There is no such mode.
        MissingExtraError: torch is not installed.
    """
    if mode is not None:
        from smolvla_gym.agent.checkpoint.load import check_options

        check_options("auto", mode)


def load(arguments: argparse.Namespace, *, realtime: bool) -> SmolVLAAgent:
    """Loads the policy.

    Args:
        arguments: With the options of :func:`add_arguments` and ``policy``.
        realtime: Whether the env's steps take real time.
    """
    remote = is_address(arguments.policy)
    doing = "connecting to" if remote else "loading"
    print(f"smolvla-gym: {doing} policy {arguments.policy} …", file=sys.stderr, flush=True)
    from smolvla_gym.agent import SmolVLAAgent

    # Of those for real time only async has a choice of aggregates.
    usual = "sync" if not realtime else "rtc" if arguments.aggregate is None else "async"
    options: dict[str, Any] = {
        "mode": arguments.mode or usual,
        "latency_ms": arguments.latency_ms,
        "n_action_steps": arguments.n_action_steps,
        "queue_threshold": arguments.queue_threshold,
        "aggregate": arguments.aggregate,
        "camera_map": dict(arguments.camera_map),
        "allow_mismatch": arguments.allow_mismatch,
    }
    if remote:
        return _known_cameras(SmolVLAAgent.connect(arguments.policy, **options))
    agent = SmolVLAAgent.from_pretrained(
        arguments.policy,
        device=arguments.device,
        dtype=arguments.dtype,
        compile_mode=arguments.compile,
        num_steps=arguments.num_steps,
        process=realtime,
        **options,
    )
    return _known_cameras(agent)


def _known_cameras(agent: SmolVLAAgent) -> SmolVLAAgent:
    """Refuses a policy that looks through cameras which no env has, before one is made."""
    from smolvla_gym.agent.cameras import match_cameras
    from smolvla_gym.sim.scene import CAMERAS

    try:
        match_cameras(agent.card, CAMERAS)
    except BaseException:
        agent.close()
        raise
    return agent
