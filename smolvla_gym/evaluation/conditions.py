"""Conditions, options and outcomes of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Self

from smolvla_gym.agent.chunk_statistics import AgentStatistics

INSTRUCTIONS: Final = ("given", "swapped", "unseen")
"""Instructions of a condition: the env's own; the same with another object of the scene named, which only a policy that
heeds the instruction takes; or a paraphrase from an instruction template that no training data contains."""


@dataclass(frozen=True)
class Condition:
    """One way of running a policy.

    Attributes:
        mode: Mode of the agent: ``auto``, ``sync``, ``async`` or ``rtc``.
        latency_ms: Latency of an action chunk in ms of simulated time.
        task: Name of the task.
        instruction: One of ``INSTRUCTIONS``; files call it ``words``.
        num_steps: Flow steps a chunk; None: the checkpoint's own.
        randomization: Level of domain randomization; None: that of the evaluation.
        cameras: Cameras of the env; None: those that the policy uses.
    """

    mode: str
    latency_ms: float
    task: str = "lift"
    instruction: str = "given"
    num_steps: int | None = None
    randomization: int | None = None
    cameras: tuple[str, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the condition with the keys of the files, where what is that of the evaluation is left out."""
        values = {"words" if name == "instruction" else name: value for name, value in asdict(self).items()}
        return {k: v for k, v in values.items() if v is not None or k not in ("randomization", "cameras")}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the condition that :meth:`to_dict` gave.

        Raises:
            TypeError: A key is missing or unknown, or ``values`` is no mapping.
            ValueError: ``values`` is no mapping.
        """
        fields = dict(values)
        if "words" in fields:
            fields["instruction"] = fields.pop("words")
        if isinstance(fields.get("cameras"), list):
            fields["cameras"] = tuple(fields["cameras"])
        return cls(**fields)


@dataclass(frozen=True)
class EvaluationOptions:
    """Options that all conditions of an evaluation share.

    Attributes:
        policy: Folder of a checkpoint, a repository, or ``"bundled"``.
        device: Device that the policy computes on.
        dtype: Type that it computes in, see ``SmolVLAAgent.from_pretrained``.
        compile_mode: A mode of ``torch.compile``, or None.
        camera_map: Env camera by policy camera, for those whose names differ; None leaves a camera out.
        env: Options of ``PAROL6Sim-v0``, without the task, which the condition has, and the cameras and their size,
            which the policy chooses.
        agent: Options of ``SmolVLAAgent`` that are the same in all conditions.
    """

    policy: str = "bundled"
    device: str = "auto"
    dtype: str = "auto"
    compile_mode: str | None = None
    camera_map: dict[str, str | None] = field(default_factory=dict)
    env: dict[str, Any] = field(default_factory=dict)
    agent: dict[str, Any] = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash((self.policy, self.device, self.dtype, self.compile_mode, repr((self.env, self.agent))))


@dataclass(frozen=True)
class Outcome:
    """Result of one episode.

    Attributes:
        seed: Evaluation seed, of the env and of the agent.
        instruction: Instruction that the agent got.
        success: Whether the task succeeded.
        steps: Control steps taken.
        statistics: Statistics of the action chunks.
        failure: Failure mode in a few words; None for a success.
    """

    seed: int
    instruction: str
    success: bool
    steps: int
    statistics: AgentStatistics
    failure: str | None = None
