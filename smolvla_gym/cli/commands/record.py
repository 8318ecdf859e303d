"""``smolvla-gym record``: record demonstrations as a LeRobot dataset."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from smolvla_gym.cli.options.agent import check_checkpoint_policy, policy_rate
from smolvla_gym.cli.options.arguments import at_least, positive
from smolvla_gym.cli.options.environment import CONTROL_HZ, EnvironmentOptions, announce_homing, make_env
from smolvla_gym.cli.options.mount_guard import MountGuardOptions
from smolvla_gym.cli.options.parser import AddParser, command, group, option
from smolvla_gym.cli.options.telemetry import TelemetryOptions
from smolvla_gym.cli.output import say
from smolvla_gym.cli.progress import progress_bar

if TYPE_CHECKING:
    from smolvla_gym.agent.protocol import Demonstrator
    from smolvla_gym.data.dataset import Dataset
    from smolvla_gym.data.record import Attempt

SourceName = Literal["expert", "dagger", "replay", "keyboard", "gamepad"]
DEVICES: Final = ("keyboard", "gamepad")

_FIRST_SEED: Final = 1_000_000
"""Evaluation seeds count up from 0, so that no evaluation runs a scene of the training data."""

_MAX_SECONDS: Final = 120.0
"""Longest episode by hand in s: 1.4 GB of two cameras' images of 256x256 at 30 Hz."""

_EXAMPLES: Final = """examples:
  smolvla-gym record --task lift --episodes 50 --root data/lift
  smolvla-gym record --task lift --episodes 100 --root data/lift    fifty more
  smolvla-gym record --root data/lift --episodes 150 --noise 0.02   with random pushes of the joints
  smolvla-gym record --root data/hard --source dagger --policy outputs/train/policy
  smolvla-gym record --root data/large --source replay --replay data/lift --image-size 480
  smolvla-gym record --root data/mine --source keyboard
  smolvla-gym record --root data/twin --env real --port twin --camera twin --lockstep
"""


@dataclass(kw_only=True)
class RecordOptions(EnvironmentOptions):
    """Options of ``smolvla-gym record``."""

    root: Path = option("folder of the dataset", metavar="DIR")
    task: str = option("what to do; `smolvla-gym tasks` lists them", "lift")
    episodes: int = option("episodes that the dataset has at the end", 50, parse=at_least(1), metavar="N")
    source: SourceName = option(
        "expert: the task's script; dagger: --policy acts, then the expert takes over and is recorded; replay: the "
        "actions of --replay in their scenes; keyboard, gamepad: teleoperation in a window", "expert",
    )  # fmt: skip
    policy: str | None = option(
        "with --source dagger: bundled, a checkpoint folder or a Hub repository", None, metavar="P"
    )
    replay: Path | None = option("with --source replay: the dataset to repeat", None, metavar="DIR")
    noise: float = option(
        "with --source expert: standard deviation of random pushes of the joints; the clean action is recorded "
        "(default: 0)", 0.0, metavar="RAD",
    )  # fmt: skip
    max_seconds: float | None = option(
        "teleoperation: time limit of an episode, whose images wait in memory "
        f"(default: {_MAX_SECONDS:g})", None, parse=positive, metavar="S",
    )  # fmt: skip
    seed: int | None = option(
        f"the first seed; those that were tried are skipped (default: {_FIRST_SEED}, or where the dataset ends)", None,
        parse=at_least(0), metavar="S",
    )  # fmt: skip
    cameras: list[str] = option("observed cameras", ["wrist", "scene"], metavar="NAME")
    image_size: int = option("edge of the images", 256, parse=at_least(16), metavar="PX")
    randomization: int | None = option("level 0 to 2 (default: 1)", None, parse=at_least(0), metavar="R")
    num_objects: int = option("objects on the table", 2, parse=at_least(2), metavar="N")
    control_hz: float | None = option(
        f"control rate, and fps (default: with dagger the policy's, or {CONTROL_HZ:g})", None, parse=positive,
        metavar="HZ",
    )  # fmt: skip
    device: str = option("where --policy computes", "auto", metavar="D")
    telemetry: TelemetryOptions = group("telemetry", TelemetryOptions)
    mounts: MountGuardOptions = group("mount guard (--env real)", MountGuardOptions)

    @property
    def by_hand(self) -> bool:
        """Return whether a person demonstrates."""
        return self.source in DEVICES

    def check(self) -> None:
        """Refuse what would fail later.

        Raises:
            UnknownNameError: There is no task, gripper, camera or policy of this name.
            OptionError: Another option has a value that is not allowed, or does not fit another one.
        """
        if self.control_hz is not None and not float(self.control_hz).is_integer():
            self.expect("control_hz", "an integer: it is the dataset's fps")
        for name, source in (("policy", "dagger"), ("replay", "replay")):
            value = getattr(self, name)
            if value is not None and self.source != source:
                self.refuse(name, f"only with --source {source}")
            if value is None and self.source == source:
                self.refuse(name, f"needed with --source {source}")
        check_checkpoint_policy(self.policy, "--policy")
        if self.max_seconds is not None and not self.by_hand:
            self.refuse("max_seconds", "only with --source keyboard or gamepad")
        if self.noise and self.source != "expert":
            self.refuse("noise", "only with --source expert")
        if self.on_table and not self.by_hand:
            self.refuse("source", "only with keyboard or gamepad on a real table, whose objects no script knows")
        self.check_environment([self.task], self.policy)
        self.telemetry.check()
        self.mounts.check(self.env)

    def scene(self) -> dict[str, Any]:
        """Return the options that decide, beside the gripper, on the scene of a seed; on a real table only the task."""
        from smolvla_gym.tasks import get_task

        scene: dict[str, Any] = {"task": get_task(self.task).name}
        return scene if self.on_table else scene | self.scene_arguments()


def run(options: RecordOptions) -> int:
    """Record, and print what the dataset has then."""
    options.check()
    from smolvla_gym.data.dataset import Dataset
    from smolvla_gym.data.record import record
    from smolvla_gym.data.spec import DatasetSpec

    if options.control_hz is None:
        options.settle_control_hz(None if options.policy is None else policy_rate(options.policy))
    if options.by_hand:
        options.max_steps = -1  # the operator ends an episode
    with contextlib.ExitStack() as stack:
        # LeRobot's libraries print.
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        env = stack.enter_context(make_env(options, options.task))
        bare: Any = env.unwrapped
        serials = getattr(bare.backend, "camera_serials", None)
        dataset = Dataset(options.root, DatasetSpec.of(env), options.scene(), serials=serials)
        for change in dataset.camera_changes:
            say(f"warning: {change}")
        if dataset.repaired:
            say(f"{options.root} lost {dataset.repaired}")
        before, left_out, solved_alone = len(dataset), dataset.left_out, dataset.solved_alone
        if before >= options.episodes:
            options.expect("episodes", f"more than the {before} that {options.root} has already")
        demonstrator = _demonstrator(options, stack)
        demonstrator.attach(env)  # one that does not fit is refused before any file is opened
        announce_homing(env, options)
        progress = stack.enter_context(_progress(options.episodes, before))
        guard = options.mounts.callbacks(env)
        callbacks = [*guard, *stack.enter_context(options.telemetry.callbacks(realtime=env.metadata["realtime"]))]
        try:
            seeds, longest = _seeds(options, dataset, demonstrator), _longest(options)
            patience = {} if options.source in ("expert", "dagger") else {"patience": None}
            record(
                env, demonstrator, dataset, seeds, options.episodes, progress,
                callbacks=callbacks, longest=longest, **patience,
            )  # fmt: skip
        except BaseException as error:
            if len(dataset):
                error.add_note(f"{options.root} has {len(dataset)} complete episodes; the same command goes on")
            raise
    if not len(dataset):
        print(f"No attempt succeeded, {dataset.left_out - left_out} failed: nothing was written.")
        return 1
    new, alone = len(dataset) - before, dataset.solved_alone - solved_alone
    print(
        f"Recorded {new} episodes{f' ({before} were there)' if before else ''}; "
        f"left out, because they failed: {dataset.left_out - left_out}"
        f"{f', because the policy succeeded alone: {alone}' if alone else ''}"
    )
    print(f"Dataset: {options.root}{os.sep}, {len(dataset)} episodes")
    return 0


add_parser: AddParser = command(
    "record", RecordOptions, run, examples=_EXAMPLES,
    help="Record demonstrations as a LeRobot dataset.",
    description="Records demonstrations as a LeRobotDataset v3, ready for training. A folder that exists is "
    "continued. Every finished episode is safe from then on; failed ones are left out and counted.",
)  # fmt: skip


def _demonstrator(options: RecordOptions, stack: contextlib.ExitStack) -> Demonstrator:
    if options.source == "replay":
        assert options.replay is not None  # noqa: S101 - narrows a type
        from smolvla_gym.data.replay import ReplayAgent

        replay = ReplayAgent(options.replay, {**options.scene(), "gripper": options.gripper})
        for trouble in (replay.lost and f"lost {replay.lost}", replay.others and f"also has {replay.others}"):
            if trouble:
                say(f"{options.replay} {trouble}")
        if replay.fps != options.control_hz:
            options.expect("control_hz", f"{replay.fps}, the rate of {options.replay}")
        return replay
    if options.policy is not None:
        from smolvla_gym.agent.smolvla_agent import SmolVLAAgent
        from smolvla_gym.data.dagger import DaggerAgent

        say(f"loading policy {options.policy} …")
        agent = SmolVLAAgent.from_pretrained(options.policy, device=options.device)
        stack.callback(agent.close)
        return DaggerAgent(agent, options.policy)
    if options.by_hand:
        from smolvla_gym.teleoperation.agent import TeleoperationAgent
        from smolvla_gym.teleoperation.window import OperatorWindow

        window = OperatorWindow(options.source)
        stack.callback(window.close)
        return TeleoperationAgent(window, options.source, longest=options.max_seconds or _MAX_SECONDS)
    from smolvla_gym.agent.scripted import ExpertAgent

    return ExpertAgent(noise=options.noise)


def _longest(options: RecordOptions) -> int | None:
    """Return the frames of the longest episode by hand; None: the environment's limit counts."""
    if not options.by_hand or options.control_hz is None:
        return None
    return int((options.max_seconds or _MAX_SECONDS) * options.control_hz)


def _seeds(options: RecordOptions, dataset: Dataset, demonstrator: Demonstrator) -> Iterable[int]:
    from smolvla_gym.data.replay import ReplayAgent

    tried = dataset.tried
    if isinstance(demonstrator, ReplayAgent):
        return [seed for seed in demonstrator.seeds if seed not in tried]
    first = options.seed if options.seed is not None else dataset.next_seed
    seeds = itertools.count(_FIRST_SEED if first is None else first)
    return (seed for seed in seeds if seed not in tried)  # the same command with --seed goes on, too


@contextlib.contextmanager
def _progress(episodes: int, before: int) -> Iterator[Callable[[Attempt], None]]:
    with progress_bar("episode", episodes, before) as show:
        tried = kept = 0

        def update(attempt: Attempt) -> None:
            nonlocal tried, kept
            tried, kept = tried + 1, kept + attempt.kept
            show(before + kept, f"left out {tried - kept}  {attempt.instruction}")

        yield update
