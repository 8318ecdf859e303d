"""Imitation learning of a small SmolVLA from demonstrations held in memory, on a CPU or a GPU.

So small a network has so many small operations that a GPU waits for Python to launch them. There, losses and gradients
are one CUDA graph; what is drawn for a step is put into its inputs.
"""

from __future__ import annotations

import math
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.agent.checkpoint.load import LoadedCheckpoint, load_checkpoint
from smolvla_gym.errors import CheckpointError, MissingExtraError, OptionError, SmolVLAGymError, with_causes
from smolvla_gym.training.provenance import copy_provenance
from smolvla_gym.training.saving import find_vlm, save_checkpoint
from smolvla_gym.training.tiny.frames import Frames, Sampler, Windows
from smolvla_gym.training.tiny.options import TrainOptions, TrainProgress, TrainReport
from smolvla_gym.utils.worker_pool import threads

try:
    import torch
    from torch import Tensor, nn
    from torch.optim.swa_utils import get_ema_multi_avg_fn

    from smolvla_gym.agent.sampler import UnsupportedPolicyError
    from smolvla_gym.agent.sampler.cuda_graph import GraphReplay
    from smolvla_gym.training.tiny.auxiliary import Regression, standardised
    from smolvla_gym.training.tiny.flow import FlowLoss, sample_times
    from smolvla_gym.training.tiny.paraphraser import Paraphraser
except ImportError as err:
    raise MissingExtraError("Training", "smolvla", err) from err


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
    """Trains every weight of a checkpoint on demonstrations and saves the running mean of the weights.

    Args:
        policy_dir: The checkpoint to begin from: one of ``build_tiny_checkpoint``, or an earlier result. Its
            statistics stay as they are.
        frames: The demonstrations.
        out: Folder of the result; the same as ``policy_dir`` goes on in place.
        options: How to train.
        report: Takes the progress; it goes to standard error where it is ``None``.
        saved: Called with the step after each saving.
        state: File that keeps what a run needs to go on where it was last saved; one that exists is gone on from.

    Returns:
        How the run ended.

    Raises:
        OptionError: Frames and policy do not fit each other.
        CheckpointError: ``policy_dir`` or ``state`` cannot be read.
        SmolVLAGymError: Training diverged: a gradient is not finite.
    """
    with threads(options.threads):
        checkpoint = load_checkpoint(policy_dir, device=options.device, dtype="float32", language_head=True)
        config = checkpoint.policy.config
        config.vlm_model_name = str(find_vlm(config.vlm_model_name))  # now, not at the first saving
        trainer = _Trainer(checkpoint, frames, Path(out), options, report or _to_stderr, saved, state)
        return trainer.run()


def step_of(state: Path) -> int:
    """Returns the step at which a run was last saved, 0 where it was not.

    Args:
        state: As for :func:`train`.

    Raises:
        CheckpointError: The file cannot be read.
    """
    return int(_load_state(state)["step"]) if state.exists() else 0


_MAX_STEPS: Final = 10**9
_SEEN_AT_ONCE: Final = 256
"""Pictures that the vision tower looks at together, where it is frozen."""


def _to_stderr(progress: TrainProgress) -> None:
    print(progress, file=sys.stderr, flush=True)


class _Trainer:
    """The state of one run."""

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
        self._checkpoint, self._frames, self._out, self._options = checkpoint, frames, out, options
        self._report, self._saved, self._state = report, saved, state
        policy = checkpoint.policy
        for name, size in checkpoint.spec.cameras.items():
            shape = frames.images[name].shape if name in frames.images else None
            if shape is None or shape[1:] != (*size, 3):
                raise OptionError(f"images[{name!r}]", shape, f"pictures of shape (N, {size[0]}, {size[1]}, 3)")
        self._pictures = frames.pictures
        self._sampler = Sampler(len(self._pictures), frames.weights, options.seed)
        self._random = np.random.default_rng([options.seed, 1])
        self._generator = torch.Generator().manual_seed(options.seed)
        self._windows = Windows(frames.segments, checkpoint.spec.chunk_size)
        self._normalise()

        # SmolVLA freezes its last VLM layer, whose keys and values are used; here they begin at random.
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
        # Of losses and gradients; the vision tower alone has another one, which the whole network's replaces.
        self._graphed = torch.device(checkpoint.device).type == "cuda"
        self._graph: tuple[bool, GraphReplay] | None = None
        self._parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
        self._means = [parameter.detach().clone() for parameter in self._parameters]
        self._seen: list[Tensor] | None = None
        self._targets: dict[str, NDArray[np.float32]] = {}
        if frames.targets is not None and not options.freeze_vision:
            self._targets["seeing"] = standardised(frames.targets)
        if frames.referents is not None:
            self._targets["grounding"] = standardised(frames.referents)
        self._heads = self._make_heads()
        if options.freeze_vision:
            self._seen = self._see_all()
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
        self._kept = self._step  # the last step that was saved

    def _normalise(self) -> None:
        """Puts states, actions and sentences through the checkpoint's own preprocessor, once for all."""
        frames = self._frames
        batch = self._checkpoint.preprocessor(
            {
                "observation.state": torch.from_numpy(frames.states.astype(np.float32)),
                "action": torch.from_numpy(frames.actions.astype(np.float32)),
                "task": list(frames.instructions),
            }
        )
        self._states, self._actions = batch["observation.state"], batch["action"]
        self._words = Paraphraser(
            batch["observation.language.tokens"].cpu().numpy(),
            batch["observation.language.attention_mask"].cpu().numpy(),
            frames.paraphrases,
            self._checkpoint.policy.model.vlm_with_expert.vlm.config.text_config.vocab_size,
            self._options.garbled_words,
        )

    def _make_heads(self) -> nn.ModuleDict:
        """Makes the auxiliary heads: over all image tokens, and over what the language model makes of the state."""
        heads = nn.ModuleDict()
        with torch.no_grad():
            batch = self._batch(np.zeros(1, dtype=np.int64))
            tokens = self._flow_loss.see(batch)
            read = self._flow_loss.read(batch, tokens).tokens
        widths = {"seeing": sum(token.shape[1] * token.shape[2] for token in tokens), "grounding": read.shape[2]}
        for name, targets in self._targets.items():
            heads[name] = Regression(widths[name], targets.shape[1], self._options.seed)
        return heads.to(self._checkpoint.device)

    def _see_all(self) -> list[Tensor]:
        """Runs the vision tower over all pictures; returns each camera's tokens, shape (M, tokens, width), float16."""
        parts: list[list[Tensor]] = []
        began = told = time.monotonic()
        for start in range(0, len(self._pictures), _SEEN_AT_ONCE):
            rows = np.arange(start, min(start + _SEEN_AT_ONCE, len(self._pictures)))
            with torch.no_grad():
                parts.append([tokens.half() for tokens in self._flow_loss.see(self._batch(rows))])
            now = time.monotonic()
            if now - told >= self._options.report_s:
                done, told = len(rows) + start, now
                left = (now - began) * (len(self._pictures) - done) / done
                print(f"looked at {done} of {len(self._pictures)} pictures, {left:.0f} s left", file=sys.stderr)
        return [torch.cat(tokens) for tokens in zip(*parts, strict=True)]

    def run(self) -> TrainReport:
        """Trains until the budget is used up."""
        options, start = self._options, time.monotonic() - self._earlier
        reported = saved = time.monotonic()
        reported_step = saved_step = self._step
        recent: dict[str, list[Tensor]] = {"flow": [], "seeing": [], "grounding": []}
        while (progress := self._progress(start)) < 1:
            only_vision = "seeing" in self._heads and progress < options.vision_share
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
        """Returns how much of the budget is used up, 0..1."""
        steps, minutes = self._options.steps, self._options.minutes
        by_steps = self._step / steps if steps else 0.0
        by_time = (time.monotonic() - start) / (60 * minutes) if minutes else 0.0
        return min(1.0, max(by_steps, by_time))

    def _train_step(self, progress: float, only_vision: bool) -> dict[str, Tensor]:
        """Does one optimiser step and returns the losses by name: "flow", "seeing" and "grounding", where they are."""
        inputs = self._draw()
        losses = self._differentiate(inputs, only_vision)
        self._optimise(progress)
        return dict(zip(self._names(only_vision), losses, strict=True))

    def _draw(self) -> dict[str, Tensor]:
        """Draws what a step learns from."""
        options, config, device = self._options, self._checkpoint.policy.config, self._checkpoint.device
        pictures = self._sampler.draw(options.batch_size)
        inputs = self._batch(pictures)
        count = options.batch_size * options.noise_draws
        noise = torch.randn((count, config.chunk_size, config.max_action_dim), generator=self._generator)
        inputs["noise"], inputs["times"] = noise.to(device), sample_times(count, self._generator).to(device)
        for name, targets in self._targets.items():
            inputs[name] = torch.from_numpy(targets[pictures]).to(device)
        if self._seen is not None:
            chosen = torch.from_numpy(pictures).to(device)
            inputs |= {f"seen.{i}": camera[chosen].float() for i, camera in enumerate(self._seen)}
        return inputs

    def _names(self, only_vision: bool) -> list[str]:
        """Returns which losses there are, in their order."""
        return ["seeing"] if only_vision else ["flow", *self._heads]

    def _differentiate(self, inputs: dict[str, Tensor], only_vision: bool) -> Tensor:
        """Computes the gradients of all weights, and returns the losses in the order of their names."""

        def compute(*values: Tensor) -> Tensor:
            self._optimiser.zero_grad(set_to_none=True)
            losses = self._losses(dict(zip(inputs, values, strict=True)), only_vision)
            share = self._options.auxiliary_weight
            total = torch.stack([loss if name == "flow" else share * loss for name, loss in losses.items()]).sum()
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
                self._graphed = False
        return self._graph[1](values) if self._graph else compute(*values)

    def _losses(self, inputs: dict[str, Tensor], only_vision: bool) -> dict[str, Tensor]:
        if self._seen is None:
            tokens = self._flow_loss.see(inputs)
        else:
            tokens = [inputs[f"seen.{i}"] for i in range(len(self._seen))]
        losses: dict[str, Tensor] = {}
        if "seeing" in self._heads:
            seen = torch.cat([token.flatten(1) for token in tokens], dim=1)
            losses["seeing"] = self._heads["seeing"](seen, inputs["seeing"])
        if not only_vision:
            prefix = self._flow_loss.read(inputs, tokens)
            losses["flow"] = self._flow_loss(inputs, inputs["noise"], inputs["times"], prefix)
            if "grounding" in self._heads:
                # Of the state's token alone: the expert finds there what the words and the pictures come to.
                losses["grounding"] = self._heads["grounding"](prefix.tokens[:, -1], inputs["grounding"])
        return losses

    def _optimise(self, progress: float) -> None:
        """Changes the weights by their gradients."""
        options = self._options
        parameters = self._optimiser.param_groups[0]["params"]
        norm = float(nn.utils.clip_grad_norm_(parameters, options.clip))
        if not math.isfinite(norm):
            kept = f"{self._out} has the policy of step {self._kept}" if self._kept else "nothing was saved yet"
            raise SmolVLAGymError(
                f"Training diverged: the gradient of step {self._step + 1} is {norm}; {kept}. Begin from an earlier "
                f"policy with a learning rate below {options.learning_rate:g}, or look for outliers in the data."
            )
        cosine = 0.505 + 0.495 * math.cos(math.pi * progress)
        warm = min(1.0, (self._step + 1) / options.warmup_steps)
        self._optimiser.param_groups[0]["lr"] = options.learning_rate * warm * cosine
        self._optimiser.step()
        self._step += 1
        # The mean forgets its random beginning faster than a fixed decay would.
        decay = min(options.ema, (1 + self._step) / (10 + self._step))
        get_ema_multi_avg_fn(decay)(self._means, self._parameters, self._step)  # type: ignore[no-untyped-call]

    def _batch(self, pictures: NDArray[np.int64]) -> dict[str, Tensor]:
        """Puts frames together as the policy's own preprocessor would, with augmented pictures and other words."""
        frames, device = self._frames, self._checkpoint.device
        rows = self._pictures[pictures]
        chunk, is_pad = self._windows.rows(rows)
        tokens, masks = self._words.draw(frames.instruction_ids[rows], self._random)
        if not self._graphed:  # sentences are padded to the longest of the dataset; a graph wants one length
            used = masks.any(axis=0)
            tokens, masks = tokens[:, used], masks[:, used]
        batch: dict[str, Any] = {
            "observation.state": self._states[rows],
            "observation.language.tokens": torch.from_numpy(tokens).to(device),
            "observation.language.attention_mask": torch.from_numpy(masks).to(device),
            "action": self._actions[chunk],
            "action_is_pad": torch.from_numpy(is_pad).to(device),
        }
        for name in self._checkpoint.spec.cameras if self._seen is None else ():
            pixels = self._options.augmentation.apply(frames.images[name][pictures], self._random, device)
            batch[f"observation.images.{name}"] = pixels.permute(0, 3, 1, 2)
        return batch

    def _save(self, seconds: float) -> None:
        """Saves the running mean of the weights and goes on with the present ones."""
        present = [parameter.detach().clone() for parameter in self._parameters]
        with torch.no_grad():
            for parameter, mean in zip(self._parameters, self._means, strict=True):
                parameter.copy_(mean)
            checkpoint = self._checkpoint
            save_checkpoint(self._out, checkpoint.policy, checkpoint.preprocessor, checkpoint.postprocessor)
            copy_provenance(checkpoint.spec.directory, self._out)
            for parameter, value in zip(self._parameters, present, strict=True):
                parameter.copy_(value)
        if self._state is not None:
            part = self._state.with_suffix(".part")
            part.unlink(missing_ok=True)  # it may be a link to a file elsewhere
            torch.save({**self._parts(), "step": self._step, "seconds": seconds}, part)
            part.replace(self._state)
        self._kept = self._step
        self._saved(self._step)

    def _parts(self) -> dict[str, Any]:
        """Returns what changes in a run, besides its step."""
        return {
            "parameters": [parameter.detach() for parameter in self._parameters],
            "means": self._means,
            "heads": self._heads.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "noise": self._generator.get_state(),
            "pictures": self._random.bit_generator.state,
            "sampler": self._sampler.state,
        }

    def _restore(self, path: Path) -> None:
        """Goes on where an earlier run was last saved."""
        parts = _load_state(path)
        try:
            with torch.no_grad():
                for mine, kept in ((self._parameters, parts["parameters"]), (self._means, parts["means"])):
                    for value, saved in zip(mine, kept, strict=True):
                        if value.shape != saved.shape or not saved.isfinite().all():
                            raise ValueError("a weight has another shape, or is not finite")
                        value.copy_(saved)
            self._heads.load_state_dict(parts["heads"])
            # The options are those of this run. The numbers have the shapes of the weights.
            options = self._optimiser.state_dict()["param_groups"]
            weights = [weight for group in self._optimiser.param_groups for weight in group["params"]]
            for number, values in parts["optimiser"]["state"].items():
                for name in ("exp_avg", "exp_avg_sq"):
                    if values[name].shape != weights[number].shape:
                        raise ValueError(f"{name} of weight {number} has another shape")
            self._optimiser.load_state_dict({**parts["optimiser"], "param_groups": options})
            self._generator.set_state(parts["noise"])
            self._random.bit_generator.state = parts["pictures"]
            self._sampler.state = parts["sampler"]
            self._step, self._earlier = int(parts["step"]), float(parts["seconds"])
        except Exception as err:  # torch raises what it likes for what does not fit
            raise _broken_state(path, err) from err


def _load_state(path: Path) -> dict[str, Any]:
    try:
        _check_archive(path)
        parts: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if not 0 <= int(parts["step"]) <= _MAX_STEPS or not 0.0 <= float(parts["seconds"]) < math.inf:
            raise ValueError(f"its step is {parts['step']!r:.40}")
    except Exception as err:  # torch and pickle raise what they like for a broken file
        raise _broken_state(path, err) from err
    return parts


def _check_archive(path: Path) -> None:
    """Refuse what torch would wait for, or unpack to more than the file holds."""
    if not path.is_file():
        raise ValueError("it is not a regular file")
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("it is compressed")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise ValueError("its parts overlap")


def _broken_state(path: Path, err: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path} cannot be gone on from ({type(err).__name__}: {' '.join(str(err).split())[:200]}). "
        "It is broken, or of another policy: remove it, and the run begins anew."
    )


def _means(recent: dict[str, list[Tensor]]) -> dict[str, float]:
    """Returns the losses as a report names them."""
    flow, seeing, grounding = (float(torch.stack(kept).mean()) if kept else math.nan for kept in recent.values())
    return {"loss": flow, "seeing_loss": seeing, "grounding_loss": grounding}
