"""``smolvla-gym record``: demonstrations as a LeRobot dataset."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from smolvla_gym.cli.options import agent as agent_options
from smolvla_gym.cli.options import real, watching
from smolvla_gym.cli.options.arguments import at_least, positive
from smolvla_gym.cli.progress import progress_bar
from smolvla_gym.errors import OptionError

if TYPE_CHECKING:
    import gymnasium as gym

    from smolvla_gym.agent.protocol import Demonstrator
    from smolvla_gym.data.dataset import Dataset
    from smolvla_gym.data.record import Attempt

DEVICES: Final = ("keyboard", "gamepad")
SOURCES: Final = ("expert", "dagger", "replay", *DEVICES)

_FIRST_SEED: Final = 1_000_000
"""Evaluations count up from 0, so that a policy is not asked what it was shown."""

_RANDOMIZATION: Final = 1

_MAX_SECONDS: Final = 120.0
"""How long an episode by hand may get in s: 1.4 GB of two cameras' pictures of 256x256 at 30 Hz."""

_EXAMPLES: Final = """examples:
  smolvla-gym record --task lift --episodes 50 --root data/lift
  smolvla-gym record --task lift --episodes 100 --root data/lift    fifty more
  smolvla-gym record --root data/lift --episodes 150 --noise 0.02   with an arm that is pushed off its way
  smolvla-gym record --root data/hard --source dagger --policy outputs/train/policy
  smolvla-gym record --root data/large --source replay --replay data/lift --image-size 480
  smolvla-gym record --root data/mine --source keyboard
  smolvla-gym record --root data/twin --env real --port twin --camera twin --lockstep
"""


def add_parser(commands: Any) -> None:
    """Adds the command and its arguments."""
    parser = commands.add_parser(
        "record",
        help="Record demonstrations as a LeRobot dataset.",
        description="Records demonstrations as a LeRobotDataset v3, ready for training. A folder that is there already "
        "is continued. Every finished episode is safe from then on; those that fail are left out and counted.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--root", type=Path, required=True, metavar="DIR", help="folder of the dataset")
    add("--task", default="lift", help="what to do; `smolvla-gym tasks` lists them (default: %(default)s)")
    add(
        "--episodes",
        type=at_least(1),
        default=50,
        metavar="N",
        help="how many the dataset is to have in the end (default: %(default)s)",
    )
    add(
        "--source",
        choices=SOURCES,
        default="expert",
        help="expert: the task's script; dagger: --policy drives, then the expert takes over and is recorded; replay: "
        "the actions of --replay in their scenes; keyboard, gamepad: you, in a window (default: %(default)s)",
    )
    add("--policy", metavar="P", help="with --source dagger: bundled, a checkpoint folder or a Hub repository")
    add("--replay", type=Path, metavar="DIR", help="with --source replay: the dataset to repeat")
    add(
        "--noise",
        type=float,
        default=0.0,
        metavar="RAD",
        help="with --source expert: standard deviation of what pushes the joints; the clean action is recorded "
        "(default: 0)",
    )
    add(
        "--max-seconds",
        type=positive,
        metavar="S",
        help=f"by hand: how long an episode may get; its pictures wait in memory (default: {_MAX_SECONDS:g})",
    )
    add("--env", choices=("sim", "real"), default="sim", help="which arm (default: %(default)s)")
    add(
        "--seed",
        type=at_least(0),
        metavar="S",
        help=f"the first seed; those that were tried are skipped (default: {_FIRST_SEED}, or where the dataset ends)",
    )
    add("--cameras", nargs="+", metavar="NAME", default=["wrist", "scene"], help="which (default: wrist scene)")
    add("--image-size", type=at_least(16), default=256, metavar="PX", help="of the pictures (default: %(default)s)")
    add("--randomization", type=at_least(0), metavar="R", help=f"level 0 to 2 (default: {_RANDOMIZATION})")
    add("--num-objects", type=at_least(2), default=2, metavar="N", help="objects on the table (default: %(default)s)")
    add("--gripper", default="ssg48", help="the gripper that is mounted (default: %(default)s)")
    add("--control-hz", type=positive, default=30, metavar="HZ", help="control rate, and fps (default: %(default)s)")
    add("--device", default="auto", metavar="D", help="where --policy computes (default: %(default)s)")
    real.add_arguments(parser)
    watching.add_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Records, and says what there is then."""
    _check(arguments)
    from smolvla_gym.data.dataset import Dataset
    from smolvla_gym.data.record import record
    from smolvla_gym.data.spec import DatasetSpec

    with contextlib.ExitStack() as stack:
        # LeRobot's libraries print.
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        env = stack.enter_context(_make_env(arguments))
        dataset = Dataset(arguments.root, DatasetSpec.of(env), _scene(arguments))
        if dataset.repaired:
            print(f"smolvla-gym: {arguments.root} lost {dataset.repaired}", file=sys.stderr)
        before, left_out, solved_alone = len(dataset), dataset.left_out, dataset.solved_alone
        if before >= arguments.episodes:
            allowed = f"more than the {before} that {arguments.root} has already"
            raise OptionError("--episodes", arguments.episodes, allowed)
        demonstrator = _demonstrator(arguments, stack)
        demonstrator.attach(env)  # one that does not fit is refused before any file is opened
        if arguments.env == "real":
            real.announce_homing(env, arguments)
        progress = stack.enter_context(_progress(arguments.episodes, before))
        callbacks = stack.enter_context(watching.callbacks(arguments, realtime=env.metadata["realtime"]))
        try:
            seeds, longest = _seeds(arguments, dataset, demonstrator), _longest(arguments)
            patience = {} if arguments.source in ("expert", "dagger") else {"patience": None}
            record(
                env, demonstrator, dataset, seeds, arguments.episodes, progress,
                callbacks=callbacks, longest=longest, **patience,
            )  # fmt: skip
        except BaseException as error:
            if len(dataset):
                error.add_note(f"{arguments.root} has {len(dataset)} complete episodes; the same command goes on")
            raise
    if not len(dataset):
        print(f"No attempt succeeded, {dataset.left_out - left_out} failed: nothing was written.")
        return 1
    new, solved = len(dataset) - before, dataset.solved_alone - solved_alone
    print(
        f"Recorded {new} episodes{f' ({before} were there)' if before else ''}; "
        f"left out, because they failed: {dataset.left_out - left_out}"
        f"{f', because the policy alone solved them: {solved}' if solved else ''}"
    )
    print(f"Dataset: {arguments.root}{os.sep}, {len(dataset)} episodes")
    return 0


def _make_env(arguments: argparse.Namespace) -> gym.Env[Any, Any]:
    import gymnasium as gym

    from smolvla_gym import REAL_ID, SIM_ID

    cameras = tuple(arguments.cameras)
    special = real.env_options(arguments, cameras) if arguments.env == "real" else {}
    if arguments.source in DEVICES:
        special["max_episode_steps"] = -1  # whoever drives by hand says when an episode is over
    return gym.make(
        REAL_ID if arguments.env == "real" else SIM_ID,
        task=arguments.task,
        cameras=cameras,
        image_size=(arguments.image_size, arguments.image_size),
        randomization=_RANDOMIZATION if arguments.randomization is None else arguments.randomization,
        num_objects=arguments.num_objects,
        gripper=arguments.gripper,
        control_hz=arguments.control_hz,
        **special,
    )


def _scene(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the options that decide, beside the gripper, which scene a seed gives; on a real table only the task."""
    from smolvla_gym.tasks import get_task

    scene: dict[str, Any] = {"task": get_task(arguments.task).name}
    if arguments.env == "sim" or arguments.port == real.TWIN:
        level = _RANDOMIZATION if arguments.randomization is None else arguments.randomization
        scene |= {"num_objects": arguments.num_objects, "randomization": level}
    return scene


def _demonstrator(arguments: argparse.Namespace, stack: contextlib.ExitStack) -> Demonstrator:
    if arguments.source == "replay":
        from smolvla_gym.data.replay import ReplayAgent

        replay = ReplayAgent(arguments.replay, {**_scene(arguments), "gripper": arguments.gripper})
        for trouble in (replay.lost and f"lost {replay.lost}", replay.others and f"also has {replay.others}"):
            if trouble:
                print(f"smolvla-gym: {arguments.replay} {trouble}", file=sys.stderr)
        if replay.fps != arguments.control_hz:
            raise OptionError("--control-hz", arguments.control_hz, f"{replay.fps}, the rate of {arguments.replay}")
        return replay
    if arguments.source == "dagger":
        from smolvla_gym.agent.smolvla_agent import SmolVLAAgent
        from smolvla_gym.data.dagger import DaggerAgent

        print(f"smolvla-gym: loading policy {arguments.policy} …", file=sys.stderr, flush=True)
        agent = SmolVLAAgent.from_pretrained(arguments.policy, device=arguments.device)
        stack.callback(agent.close)
        return DaggerAgent(agent, arguments.policy)
    if arguments.source in DEVICES:
        from smolvla_gym.teleoperation.agent import TeleoperationAgent
        from smolvla_gym.teleoperation.window import OperatorWindow

        window = OperatorWindow(arguments.source)
        stack.callback(window.close)
        return TeleoperationAgent(window, arguments.source, longest=arguments.max_seconds or _MAX_SECONDS)
    from smolvla_gym.agent.scripted import ExpertAgent

    return ExpertAgent(noise=arguments.noise)


def _longest(arguments: argparse.Namespace) -> int | None:
    """Returns the frames of the longest episode by hand; None: the env's own limit counts."""
    if arguments.source not in DEVICES:
        return None
    return int((arguments.max_seconds or _MAX_SECONDS) * arguments.control_hz)


def _seeds(arguments: argparse.Namespace, dataset: Dataset, demonstrator: Demonstrator) -> Iterable[int]:
    from smolvla_gym.data.replay import ReplayAgent

    tried = dataset.tried
    if isinstance(demonstrator, ReplayAgent):
        return [seed for seed in demonstrator.seeds if seed not in tried]
    first = arguments.seed if arguments.seed is not None else dataset.next_seed
    seeds = itertools.count(_FIRST_SEED if first is None else first)
    return (seed for seed in seeds if seed not in tried)  # the same command with --seed goes on, too


def _check(arguments: argparse.Namespace) -> None:
    from smolvla_gym.envs.env_options import check_choice, check_control_hz
    from smolvla_gym.parol6 import get_gripper
    from smolvla_gym.sim.randomization import MAX_LEVEL
    from smolvla_gym.sim.scene import MAX_OBJECTS, check_cameras
    from smolvla_gym.tasks import get_task

    get_task(arguments.task)
    get_gripper(arguments.gripper)
    check_cameras(tuple(arguments.cameras))
    if arguments.randomization is not None:
        check_choice("--randomization", arguments.randomization, range(MAX_LEVEL + 1))
    check_choice("--num-objects", arguments.num_objects, range(2, MAX_OBJECTS + 1))
    check_control_hz(arguments.control_hz)
    if not float(arguments.control_hz).is_integer():
        raise OptionError("--control-hz", arguments.control_hz, "a whole number: it is the dataset's fps")
    belongs = {"--policy": (arguments.policy, "dagger"), "--replay": (arguments.replay, "replay")}
    for name, (value, source) in belongs.items():
        if value is not None and arguments.source != source:
            raise OptionError(name, str(value), f"only with --source {source}")
        if value is None and arguments.source == source:
            raise OptionError(name, None, f"needed with --source {source}")
    if arguments.policy is not None:
        if arguments.policy in agent_options.SCRIPTED or agent_options.is_address(arguments.policy):
            raise OptionError("--policy", arguments.policy, "a SmolVLA policy on this machine")
        agent_options.check_policy(arguments.policy)
    if arguments.max_seconds is not None and arguments.source not in DEVICES:
        raise OptionError("--max-seconds", arguments.max_seconds, "only with --source keyboard or gamepad")
    if arguments.noise and arguments.source != "expert":
        raise OptionError("--noise", arguments.noise, "only with --source expert")
    if arguments.env == "real" and arguments.port != real.TWIN and arguments.source not in DEVICES:
        raise OptionError("--source", arguments.source, "keyboard or gamepad: no script sees what lies on a real table")
    real.check(arguments)
    watching.check(arguments)


@contextlib.contextmanager
def _progress(episodes: int, before: int) -> Iterator[Callable[[Attempt], None]]:
    with progress_bar("episode", episodes, before) as show:
        tried = kept = 0

        def update(attempt: Attempt) -> None:
            nonlocal tried, kept
            tried, kept = tried + 1, kept + attempt.kept
            show(before + kept, f"left out {tried - kept}  {attempt.instruction}")

        yield update
