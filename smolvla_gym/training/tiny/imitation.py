"""Imitation learning of a small SmolVLA from demonstrations held in memory, on a CPU or a GPU.

A small network has so many small operations that a GPU waits for Python to launch them. On a GPU the losses and
gradients of a step are therefore one CUDA graph, and each step copies its inputs into the graph.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.agent.checkpoint.load import LoadedCheckpoint, load_checkpoint
from smolvla_gym.agent.checkpoint.saving import find_vlm, save_checkpoint
from smolvla_gym.errors import CheckpointError, MissingExtraError, OptionError, SmolVLAGymError, with_causes
from smolvla_gym.training.provenance import PROVENANCE, read_provenance, write_provenance
from smolvla_gym.training.tiny.frames import Frames
from smolvla_gym.training.tiny.options import TrainOptions, TrainProgress, TrainReport
from smolvla_gym.utils.worker_pool import threads

try:
    import torch
    from torch import Tensor, nn
    from torch.optim.swa_utils import get_ema_multi_avg_fn

    from smolvla_gym.agent.sampler import UnsupportedPolicyError
    from smolvla_gym.agent.sampler.cuda_graph import GraphReplay
    from smolvla_gym.training.tiny.auxiliary import Regression, standardised
    from smolvla_gym.training.tiny.flow import FlowLoss
    from smolvla_gym.training.tiny.state_file import broken_state, load_state, save_state
    from smolvla_gym.training.tiny.training_inputs import TrainingInputs
except ImportError as _err:
    raise MissingExtraError("Training", "smolvla", _err) from _err

_FLOW: Final = "flow"
_VISION: Final = "seeing"
_GROUNDING: Final = "grounding"
"""Names of the losses. The state files of earlier versions name the auxiliary heads so."""

_VISION_BATCH: Final = 256
"""Images in one pass through a frozen vision tower."""


def train(
    policy_dir: str | Path,
    frames: Frames,
    out: str | Path,
    options: TrainOptions,
    *,
    report: Callable[[TrainProgress], None] | None = None,
    saved: Callable[[int], None] = lambda step: None,
    state: Path | None = None,
) -> TrainReport:
    """Train every weight of a checkpoint on demonstrations and save the running mean of the weights.

    Args:
        policy_dir: The checkpoint to start from: one of ``build_tiny_checkpoint``, or an earlier result. Its
            normalisation statistics are not changed.
        frames: The demonstrations.
        out: Folder of the result; it may be ``policy_dir``.
        options: The options of the run.
        report: Called with the progress; None: the progress is printed to standard error.
        saved: Called with the step each time the policy was saved.
        state: File with the state of the run. A run resumes from a file that exists.

    Returns:
        The result of the run.

    Raises:
        OptionError: The frames, ``max_delay`` or ``absent`` do not match the policy.
        CheckpointError: ``policy_dir`` or ``state`` cannot be read.
        SmolVLAGymError: Training diverged: a gradient is not finite.
    """
    with threads(options.threads):
        checkpoint = load_checkpoint(policy_dir, device=options.device, dtype="float32", language_head=True)
        config = checkpoint.policy.config
        config.vlm_model_name = str(find_vlm(config.vlm_model_name))  # here, so that the first saving cannot fail
        options = _with_max_delay(options, checkpoint.spec.directory)
        if options.absent:
            if len(checkpoint.spec.cameras) < 2:
                raise OptionError("absent", dict(options.absent), "none, because the policy has one camera")
            config.empty_cameras = max(1, config.empty_cameras)
            config.validate_features()  # adds LeRobot's features of empty cameras
        trainer = _Trainer(checkpoint, frames, Path(out), options, report or _to_stderr, saved, state)
        return trainer.run()


def _with_max_delay(options: TrainOptions, checkpoint: Path) -> TrainOptions:
    """Return the options with the largest delay of the run, which the checkpoint has to state."""
    known = read_provenance(checkpoint)
    if options.max_delay is None:
        return replace(options, max_delay=0 if known is None else known.rtc_max_delay)
    if options.max_delay and known is None:
        raise OptionError("max_delay", options.max_delay, f"0, because {checkpoint} has no {PROVENANCE} to state it")
    return options


def _to_stderr(progress: TrainProgress) -> None:
    print(progress, file=sys.stderr, flush=True)


class _Trainer:
    """One training run."""

    def __init__(
        self,
        checkpoint: LoadedCheckpoint,
        frames: Frames,
        out: Path,
        options: TrainOptions,
        report: Callable[[TrainProgress], None],
        saved: Callable[[int], None],
        state: Path | None,
    ) -> None:
        self._checkpoint, self._out, self._options = checkpoint, out, options
        self._report, self._saved, self._state = report, saved, state
        policy = checkpoint.policy
        self._inputs = TrainingInputs(checkpoint, frames, options)

        # SmolVLA freezes its last VLM layer, whose keys and values are used; here they are random at first.
        policy.requires_grad_(True)
        policy.model.vlm_with_expert.vlm.lm_head.requires_grad_(False)
        if options.freeze_vision:
            vlm = policy.model.vlm_with_expert.get_vlm_model()
            for module in (vlm.vision_model, vlm.connector):
                module.requires_grad_(False)
        policy.train()
        try:
            self._flow_loss = FlowLoss(policy)
        except UnsupportedPolicyError as reason:
            text = f"{checkpoint.spec.directory} cannot be trained here: it has {reason}. Train it with lerobot-train."
            raise CheckpointError(text) from reason
        # One graph at a time, of one set of losses: the graph of the whole network replaces that of the vision tower.
        self._graph: tuple[bool, GraphReplay] | None = None
        self._use_graph(torch.device(checkpoint.device).type == "cuda")
        self._parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
        self._means = [parameter.detach().clone() for parameter in self._parameters]
        self._targets: dict[str, NDArray[np.float32]] = {}
        if frames.targets is not None and not options.freeze_vision:
            self._targets[_VISION] = standardised(frames.targets)
        if frames.referents is not None:
            self._targets[_GROUNDING] = standardised(frames.referents)
        self._heads = self._make_heads()
        if options.freeze_vision:
            self._inputs.vision_tokens = self._encode_images()
        self._optimiser = torch.optim.AdamW(
            [*self._parameters, *self._heads.parameters()],
            lr=options.learning_rate,
            weight_decay=options.weight_decay,
            betas=(0.9, 0.95),
            fused=True,
        )
        self._step, self._earlier = 0, 0.0
        if state is not None and state.exists():
            self._restore(state)
        self._saved_step = self._step

    def _use_graph(self, use: bool) -> None:
        self._graphed = self._inputs.fixed_length = use

    def _make_heads(self) -> nn.ModuleDict:
        """Make the auxiliary heads: on the tokens of all images, and on the language model's output for the state."""
        heads = nn.ModuleDict()
        with torch.no_grad():
            batch = self._inputs.batch(np.zeros(1, dtype=np.int64))
            tokens = self._flow_loss.see(batch)
            read = self._flow_loss.read(batch, tokens).tokens
        widths = {_VISION: sum(token.shape[1] * token.shape[2] for token in tokens), _GROUNDING: read.shape[2]}
        for name, targets in self._targets.items():
            heads[name] = Regression(widths[name], targets.shape[1], self._options.seed)
        return heads.to(self._checkpoint.device)

    def _encode_images(self) -> list[Tensor]:
        """Run the vision tower on all images; return the tokens of each camera, shape (M, tokens, width), float16."""
        parts: list[list[Tensor]] = []
        started = reported = time.monotonic()
        count = self._inputs.count
        for start in range(0, count, _VISION_BATCH):
            chosen = np.arange(start, min(start + _VISION_BATCH, count))
            with torch.no_grad():
                parts.append([tokens.half() for tokens in self._flow_loss.see(self._inputs.batch(chosen))])
            now = time.monotonic()
            if now - reported >= self._options.report_s:
                done, reported = len(chosen) + start, now
                left = (now - started) * (count - done) / done
                print(f"encoded {done} of {count} images, {left:.0f} s left", file=sys.stderr)
        return [torch.cat(tokens) for tokens in zip(*parts, strict=True)]

    def run(self) -> TrainReport:
        """Train until the steps or the minutes of the options are used up."""
        options, start = self._options, time.monotonic() - self._earlier
        reported = saved = time.monotonic()
        reported_step = saved_step = self._step
        recent: dict[str, list[Tensor]] = {_FLOW: [], _VISION: [], _GROUNDING: []}
        while (progress := self._progress(start)) < 1:
            only_vision = _VISION in self._heads and progress < options.vision_share
            for name, loss in self._train_step(progress, only_vision).items():
                recent[name].append(loss)
            now = time.monotonic()
            if now - reported >= options.report_s:
                left = (now - start) * (1 - progress) / max(progress, 1e-6)
                rate = (self._step - reported_step) / (now - reported)
                self._report(TrainProgress(self._step, **_means(recent), rate=rate, left=left))
                reported, reported_step = now, self._step
                recent = {name: losses[-1:] for name, losses in recent.items()}
            if options.save_steps is None:
                due = now - saved >= options.save_minutes * 60
            else:
                due = self._step - saved_step >= options.save_steps
            if due and self._progress(start) < 1:
                self._save(now - start)
                saved, saved_step = time.monotonic(), self._step
        if self._step > reported_step:
            rate = (self._step - reported_step) / max(time.monotonic() - reported, 1e-6)
            self._report(TrainProgress(self._step, **_means(recent), rate=rate, left=0.0))
        self._save(time.monotonic() - start)
        return TrainReport(self._out, self._step, time.monotonic() - start, **_means(recent))

    def _progress(self, start: float) -> float:
        """Return the share of the steps or minutes that is used up, 0..1."""
        steps, minutes = self._options.steps, self._options.minutes
        by_steps = self._step / steps if steps else 0.0
        by_time = (time.monotonic() - start) / (60 * minutes) if minutes else 0.0
        return min(1.0, max(by_steps, by_time))

    def _train_step(self, progress: float, only_vision: bool) -> dict[str, Tensor]:
        """Do one optimiser step and return the losses by name."""
        losses = self._differentiate(self._inputs.draw(self._targets), only_vision)
        self._optimise(progress)
        return dict(zip(self._names(only_vision), losses, strict=True))

    def _names(self, only_vision: bool) -> list[str]:
        """Return the names of the computed losses, in their order."""
        return [_VISION] if only_vision else [_FLOW, *self._heads]

    def _differentiate(self, inputs: dict[str, Tensor], only_vision: bool) -> Tensor:
        """Compute the gradients of all weights, and return the losses in the order of their names."""

        def compute(*values: Tensor) -> Tensor:
            self._optimiser.zero_grad(set_to_none=True)
            losses = self._losses(dict(zip(inputs, values, strict=True)), only_vision)
            share = self._options.auxiliary_weight
            total = torch.stack([loss if name == _FLOW else share * loss for name, loss in losses.items()]).sum()
            total.backward()  # type: ignore[no-untyped-call]
            return torch.stack([losses[name].detach() for name in self._names(only_vision)])

        values = list(inputs.values())
        if self._graphed and (self._graph is None or self._graph[0] != only_vision):
            self._graph = None  # its gradients are not those that the optimiser takes after the next capture
            try:
                self._graph = only_vision, GraphReplay(compute, values)
            except RuntimeError as err:
                text = f"No CUDA graph of a training step ({with_causes(err)}): it takes several times as long."
                print(text, file=sys.stderr)
                self._use_graph(False)
        return self._graph[1](values) if self._graph else compute(*values)

    def _losses(self, inputs: dict[str, Tensor], only_vision: bool) -> dict[str, Tensor]:
        if self._inputs.vision_tokens is None:
            tokens = self._flow_loss.see(inputs)
        else:
            tokens = [inputs[f"seen.{i}"] for i in range(len(self._inputs.vision_tokens))]
        losses: dict[str, Tensor] = {}
        if _VISION in self._heads:
            features = torch.cat([token.flatten(1) for token in tokens], dim=1)
            losses[_VISION] = self._heads[_VISION](features, inputs[_VISION])
        if not only_vision:
            prefix = self._flow_loss.read(inputs, tokens)
            losses[_FLOW] = self._flow_loss(inputs, inputs["noise"], inputs["times"], prefix, inputs.get("delays"))
            if _GROUNDING in self._heads:
                # Of the state's token alone: it attends to all others, and the action expert attends to it.
                losses[_GROUNDING] = self._heads[_GROUNDING](prefix.tokens[:, -1], inputs[_GROUNDING])
        return losses

    def _optimise(self, progress: float) -> None:
        """Update the weights by their gradients, and the running mean of the weights."""
        options = self._options
        parameters = self._optimiser.param_groups[0]["params"]
        norm = float(nn.utils.clip_grad_norm_(parameters, options.clip))
        if not math.isfinite(norm):
            kept = f"{self._out} has the policy of step {self._saved_step}" if self._saved_step else "nothing was saved"
            raise SmolVLAGymError(
                f"Training diverged: the gradient of step {self._step + 1} is {norm}; {kept}. Start from an earlier "
                f"policy with a learning rate below {options.learning_rate:g}, or remove outliers from the data."
            )
        cosine = 0.505 + 0.495 * math.cos(math.pi * progress)
        warm = min(1.0, (self._step + 1) / options.warmup_steps)
        self._optimiser.param_groups[0]["lr"] = options.learning_rate * warm * cosine
        self._optimiser.step()
        self._step += 1
        # A smaller decay at first: the mean forgets the random initial weights sooner.
        decay = min(options.ema, (1 + self._step) / (10 + self._step))
        get_ema_multi_avg_fn(decay)(self._means, self._parameters, self._step)  # type: ignore[no-untyped-call]

    def _save(self, seconds: float) -> None:
        """Save the running mean of the weights as the policy, and the state of the run."""
        present = [parameter.detach().clone() for parameter in self._parameters]
        with torch.no_grad():
            for parameter, mean in zip(self._parameters, self._means, strict=True):
                parameter.copy_(mean)
            checkpoint = self._checkpoint
            save_checkpoint(self._out, checkpoint.policy, checkpoint.preprocessor, checkpoint.postprocessor)
            known = read_provenance(checkpoint.spec.directory)
            if known is not None:
                write_provenance(self._out, replace(known, rtc_max_delay=self._options.max_delay or 0))
            for parameter, value in zip(self._parameters, present, strict=True):
                parameter.copy_(value)
        if self._state is not None:
            save_state(self._state, {**self._variables(), "step": self._step, "seconds": seconds})
        self._saved_step = self._step
        self._saved(self._step)

    def _variables(self) -> dict[str, Any]:
        """Return everything that changes in a run, except the step and the time."""
        return {
            "parameters": [parameter.detach() for parameter in self._parameters],
            "means": self._means,
            "heads": self._heads.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            **self._inputs.state,
        }

    def _restore(self, path: Path) -> None:
        """Continue from the state that an earlier run saved.

        Raises:
            CheckpointError: The file is broken or belongs to another policy.
        """
        state = load_state(path)
        try:
            with torch.no_grad():
                for own, stored in ((self._parameters, state["parameters"]), (self._means, state["means"])):
                    for value, saved in zip(own, stored, strict=True):
                        if value.shape != saved.shape or not saved.isfinite().all():
                            raise ValueError("a weight has another shape, or is not finite")
                        value.copy_(saved)
            self._heads.load_state_dict(state["heads"])
            # The options are those of this run. The moments need the shapes of the weights.
            options = self._optimiser.state_dict()["param_groups"]
            weights = [weight for group in self._optimiser.param_groups for weight in group["params"]]
            for number, values in state["optimiser"]["state"].items():
                for name in ("exp_avg", "exp_avg_sq"):
                    if values[name].shape != weights[number].shape:
                        raise ValueError(f"{name} of weight {number} has another shape")
            self._optimiser.load_state_dict({**state["optimiser"], "param_groups": options})
            self._inputs.state = state
            self._step, self._earlier = int(state["step"]), float(state["seconds"])
        except Exception as err:  # torch raises errors of any type for a state that does not fit
            raise broken_state(path, err) from err


def _means(recent: dict[str, list[Tensor]]) -> dict[str, float]:
    """Return the mean losses as a report names them."""
    flow, vision, grounding = (float(torch.stack(losses).mean()) if losses else math.nan for losses in recent.values())
    return {"loss": flow, "vision_loss": vision, "grounding_loss": grounding}
