"""Options of a SmolVLA agent: how chunks are computed, and how they are executed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from smolvla_gym.cli.options.arguments import at_least, choice, reader_of, refused
from smolvla_gym.cli.options.parser import Options, UsageError, option
from smolvla_gym.cli.output import say
from smolvla_gym.errors import UnknownNameError

if TYPE_CHECKING:
    import gymnasium as gym

    from smolvla_gym.agent import SmolVLAAgent
    from smolvla_gym.agent.checkpoint.provenance import Provenance
    from smolvla_gym.agent.protocol import Agent

SCRIPTED: Final = ("expert", "random")
"""Policies that are no checkpoints."""

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
DTYPES: Final = get_args(Dtype)
"""As the agent has them, whose module needs torch."""

Mode = Literal["auto", "sync", "async", "rtc"]

MODE_HELP: Final = (
    "sync: infer when the queue is empty; async: while it plays; rtc: async, each chunk continuing the one before; "
    "auto: rtc with a latency if the policy was trained for it, else async in real time and sync in simulated time "
    "(default: auto)"
)
LATENCY_HELP: Final = "inference time of a chunk: exactly in simulated time, at least in real time (default: 0)"
STEPS_HELP: Final = "flow steps a chunk (default: the policy's)"

_ADDRESS: Final = re.compile(r"wss?://\S+|[^/\s:]+:\d+|\[[\da-fA-F:]+\]:\d+")
_REPOSITORY: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def _pair(text: str) -> tuple[str, str | None]:
    camera, equals, env_camera = text.partition("=")
    if not (camera and equals):
        raise refused(text, "the form camera1=wrist, or camera3=none to leave a camera out")
    return camera, None if env_camera.lower() in ("", "none") else env_camera


latency: Callable[[str], float] = reader_of(float, "a number of ms from 0 on", lambda value: 0.0 <= value < math.inf)


def compile_mode(text: str) -> str:
    """Read a mode of ``torch.compile``."""
    from smolvla_gym.agent.checkpoint.build import COMPILE_MODES

    return choice(COMPILE_MODES)(text)


@dataclass(kw_only=True)
class PolicyOptions(Options):
    """Options of the computation of chunks; see ``SmolVLAAgent.from_pretrained``."""

    device: str = option("where the policy computes: auto, cpu, cuda, mps", "auto", metavar="D", kept=True)
    dtype: Dtype = option("the type that it computes in; auto: that of its weights", "auto", kept=True)
    compile: str | None = option(
        "use torch.compile in a mode such as default or max-autotune; the first chunk then takes minutes", None,
        const="default", parse=compile_mode, metavar="MODE", kept=True,
    )  # fmt: skip
    camera_map: list[tuple[str, str | None]] = option(
        "the env's camera for each policy camera whose name differs, such as camera1=wrist camera2=scene; "
        "camera3=none leaves out one that training never saw", [], parse=_pair, metavar="POLICY=ENV", kept=True,
    )  # fmt: skip

    def check(self, policy: str) -> None:
        """Refuse options that have no effect with a policy, and values that are not allowed.

        Raises:
            OptionError: An option has a value that is not allowed, or no effect.
            UnknownNameError: There is no such policy or aggregate.
        """
        check_policy(policy)
        for name in self.changed():
            if policy in SCRIPTED:
                self.refuse(name, "only with a SmolVLA policy")
            if is_address(policy) and name in ("device", "dtype", "compile", "num_steps"):
                self.refuse(name, "only with a policy on this machine; give it to `smolvla-gym serve`")


@dataclass(kw_only=True)
class ChunkOptions(PolicyOptions):
    """Options of the execution of chunks; see ``SmolVLAAgent``."""

    allow_mismatch: bool = option(
        "only warn where the policy was trained at another control rate or with another gripper", False
    )
    n_action_steps: int | None = option(
        "actions of a chunk to execute (default: the policy's; or all)", None, metavar="N", kept=True
    )
    queue_threshold: int | None = option(
        "actions left when the next chunk is requested (default: half of those to execute, or more where the policy's "
        "own number is smaller)", None, metavar="N", kept=True,
    )  # fmt: skip
    aggregate: str | None = option(
        "how async merges two chunks; auto is async then (default: weighted_average)", None,
        metavar="NAME", kept=True,
    )  # fmt: skip

    def check(self, policy: str) -> None:
        """Refuse options as :meth:`PolicyOptions.check` does."""
        super().check(policy)
        if self.aggregate is not None:
            from smolvla_gym.agent.aggregation import get_aggregate

            get_aggregate(self.aggregate)

    def agent_arguments(self) -> dict[str, Any]:
        """Return the arguments of ``SmolVLAAgent`` that were chosen and are the same in all modes."""
        chosen = {name: getattr(self, name) for name in ("n_action_steps", "queue_threshold", "aggregate")}
        return {name: value for name, value in chosen.items() if value is not None} | {
            "allow_mismatch": self.allow_mismatch
        }


@dataclass(kw_only=True)
class AgentOptions(ChunkOptions):
    """Options of an agent."""

    mode: Mode = option(MODE_HELP, "auto")
    latency_ms: float | None = option(LATENCY_HELP, None, parse=latency, metavar="MS")
    num_steps: int | None = option(STEPS_HELP, None, parse=at_least(1), metavar="N")

    def load(self, policy: str, *, realtime: bool, more_cameras: Collection[str] = ()) -> SmolVLAAgent:
        """Load a policy, or connect to the server that has it.

        Args:
            policy: Its name.
            realtime: Whether the env's steps take real time.
            more_cameras: Cameras of the env beside those of the simulation.

        Raises:
            PolicyMismatchError: It needs a camera that no env has.
        """
        remote = is_address(policy)
        say(f"{'connecting to' if remote else 'loading'} policy {policy} …")
        from smolvla_gym.agent import SmolVLAAgent

        arguments = self.agent_arguments() | {"mode": self.mode, "latency_ms": self.latency_ms}
        arguments["camera_map"] = dict(self.camera_map)
        if remote:
            agent = SmolVLAAgent.connect(policy, **arguments)
        else:
            agent = SmolVLAAgent.from_pretrained(
                policy, device=self.device, dtype=self.dtype, compile_mode=self.compile, num_steps=self.num_steps,
                process=realtime, **arguments,
            )  # fmt: skip
        return _check_cameras(agent, more_cameras)


@dataclass(kw_only=True)
class SweepOptions(ChunkOptions):
    """Options of an agent that is evaluated in several modes, with several latencies and numbers of flow steps."""

    mode: list[Mode] = option(MODE_HELP, ["auto"], kept=True)
    latency_ms: list[float] = option(LATENCY_HELP, [0.0], parse=latency, metavar="MS", kept=True)
    num_steps: list[int | None] = option(STEPS_HELP, [None], parse=at_least(1), metavar="N", kept=True)


def _check_cameras(agent: SmolVLAAgent, more: Collection[str]) -> SmolVLAAgent:
    """Return the agent unless its policy needs a camera that no env has."""
    from smolvla_gym.agent.cameras import match_cameras
    from smolvla_gym.sim.scene import CAMERAS

    try:
        match_cameras(agent.card, (*CAMERAS, *more))
    except BaseException:
        agent.close()
        raise
    return agent


def is_address(policy: str) -> bool:
    """Return whether a policy is the address of a server."""
    return not Path(policy).exists() and _ADDRESS.fullmatch(policy) is not None


def is_smolvla(policy: str | None) -> bool:
    """Return whether a policy is a SmolVLA: a checkpoint, or the address of a server."""
    return policy is not None and policy not in SCRIPTED


def check_policy(policy: str) -> None:
    """Refuse policies that cannot exist.

    Raises:
        UnknownNameError: There is no policy of this name.
    """
    if policy in ("bundled", *SCRIPTED) or is_address(policy):
        return
    if not policy or not (Path(policy).exists() or _REPOSITORY.fullmatch(policy)):
        known = ("bundled", *SCRIPTED, "an existing folder", "a Hub repository OWNER/NAME", "HOST:PORT of a server")
        raise UnknownNameError("policy", policy, known)


def check_checkpoint_policy(policy: str | None, flag: str) -> None:
    """Refuse a policy that is no checkpoint on this machine or the hub.

    Args:
        policy: The policy; None is accepted.
        flag: The option that has it.

    Raises:
        OptionError: It is a scripted policy, or the address of a server.
        UnknownNameError: There is no such policy.
    """
    if policy is None:
        return
    if policy in SCRIPTED or is_address(policy):
        reason = "expected a SmolVLA policy on this machine; `smolvla-gym rollout` runs the others"
        raise UsageError(flag, policy, reason)
    check_policy(policy)


def policy_rate(policy: str) -> float | None:
    """Return the control rate in Hz that a checkpoint was trained at, None where it does not say.

    Raises:
        CheckpointError: The checkpoint is missing or cannot be fetched.
    """
    trained = _read_provenance(policy)
    return None if trained is None else float(trained.control_hz)


def policy_max_delay(policy: str) -> int:
    """Return the largest inference delay in actions that a checkpoint was trained for, 0 where it does not say.

    Raises:
        CheckpointError: The checkpoint is missing or cannot be fetched.
    """
    trained = _read_provenance(policy)
    return 0 if trained is None else trained.rtc_max_delay


def policy_cameras(policy: str, camera_map: Mapping[str, str | None]) -> tuple[tuple[str, ...], int]:
    """Return the env cameras that a checkpoint uses, and how many of them may be absent.

    Raises:
        CheckpointError: The checkpoint is missing or broken, or cannot be fetched.
        PolicyMismatchError: It does not have the cameras of ``camera_map``.
    """
    from smolvla_gym.agent.cameras import map_checkpoint_cameras
    from smolvla_gym.agent.checkpoint.load import fetch_checkpoint
    from smolvla_gym.agent.checkpoint.spec import read_spec

    spec = read_spec(fetch_checkpoint(policy))
    return tuple(dict.fromkeys(map_checkpoint_cameras(spec, camera_map).values())), spec.empty_cameras


def _read_provenance(policy: str) -> Provenance | None:
    from smolvla_gym.agent.checkpoint.hub import download, find_checkpoint_folder
    from smolvla_gym.agent.checkpoint.provenance import PROVENANCE, read_provenance

    return read_provenance(find_checkpoint_folder(policy) or download(policy, None, [PROVENANCE]))


def make_agent(policy: str | None, env: gym.Env[Any, Any], smolvla: SmolVLAAgent | None) -> Agent | None:
    """Return the agent that acts in an environment.

    Args:
        policy: Its name; None: there is no agent.
        env: The environment.
        smolvla: The loaded policy, which is attached to the environment; None: a scripted one is made.
    """
    from smolvla_gym.agent.protocol import attach
    from smolvla_gym.agent.scripted import ExpertAgent, RandomAgent

    if policy is None:
        return None
    agent: Agent = smolvla or (ExpertAgent() if policy == "expert" else RandomAgent())
    attach(agent, env)  # an agent that does not fit is refused before the arm homes
    return agent
