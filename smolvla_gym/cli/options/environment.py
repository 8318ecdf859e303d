"""Options of the environment, and the function that makes it: simulation, real arm or virtual twin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from smolvla_gym.cli.options.arguments import positive
from smolvla_gym.cli.options.parser import Options, group, option
from smolvla_gym.cli.options.real_arm import RealArmOptions
from smolvla_gym.cli.output import say
from smolvla_gym.errors import NotHomedError

if TYPE_CHECKING:
    import gymnasium as gym

    from smolvla_gym.agent import SmolVLAAgent

CONTROL_HZ: Final = 30.0
RANDOMIZATION: Final = 1
NUM_OBJECTS: Final = 2


@dataclass(kw_only=True)
class SceneOptions(Options):
    """Options of the simulated scene; fields that are no options here become some in the commands that have them.

    Attributes:
        randomization: 0 to 2; None: not given, which is 1.
        num_objects: Objects on the table.
    """

    gripper: str = option("the gripper that is mounted", "ssg48", kept=True)
    control_hz: float | None = option(
        f"control rate (default: the policy's, or {CONTROL_HZ:g})", None, parse=positive, metavar="HZ", kept=True
    )
    table: str | None = option(
        "a table of your own: a file that `smolvla-gym table new` begins (default: the package's)", None,
        metavar="FILE", kept=True,
    )  # fmt: skip
    randomization: int | None = None
    num_objects: int = NUM_OBJECTS

    def check_scene(self, tasks: Sequence[str]) -> None:
        """Refuse what the environment would refuse.

        Raises:
            UnknownNameError: There is no task or gripper of this name.
            OptionError: Another option has a value that is not allowed.
        """
        from smolvla_gym.envs.env_options import check_choice, check_control_hz
        from smolvla_gym.parol6 import get_gripper
        from smolvla_gym.sim.randomization import MAX_LEVEL
        from smolvla_gym.sim.scene import MAX_OBJECTS
        from smolvla_gym.tasks import get_task

        if self.table is not None:
            self._check_table(tasks)
        for task in tasks:
            get_task(task)
        get_gripper(self.gripper)
        if self.randomization is not None:
            check_choice("--randomization", self.randomization, range(MAX_LEVEL + 1))
        if self.table is None:
            check_choice("--num-objects", self.num_objects, range(NUM_OBJECTS, MAX_OBJECTS + 1))
        if self.control_hz is not None:
            check_control_hz(self.control_hz)

    def scene_arguments(self) -> dict[str, Any]:
        """Return the arguments of ``gym.make`` that decide, beside task and gripper, which scene a seed gives."""
        level = RANDOMIZATION if self.randomization is None else self.randomization
        if self.table is None:
            return {"randomization": level, "num_objects": self.num_objects}
        count = self.num_objects if "num_objects" in self.given else None
        return {"randomization": level, "num_objects": count, "table": self.table}

    def _check_table(self, tasks: Sequence[str]) -> None:
        from smolvla_gym.envs.env_options import check_num_objects, check_table
        from smolvla_gym.tasks.own_table import own_task

        table = check_table(self.table)
        assert table is not None  # noqa: S101 - narrows a type
        for task in tasks:
            own_task(task, table)
        if "num_objects" in self.given:
            check_num_objects(self.num_objects, table)

    def settle_control_hz(self, policy_hz: float | None) -> float:
        """Set the control rate that was not given: the policy's, or 30 Hz.

        Args:
            policy_hz: The rate that the policy was trained at; None: unknown, or there is no policy.
        """
        if self.control_hz is None:
            self.control_hz = CONTROL_HZ if policy_hz is None else policy_hz
            if self.control_hz != CONTROL_HZ:
                say(f"control rate {self.control_hz:g} Hz, at which the policy was trained (--control-hz sets another)")
        return self.control_hz


@dataclass(kw_only=True)
class EnvironmentOptions(SceneOptions):
    """Options of a command that runs on the simulated or the real arm.

    Attributes:
        cameras: Observed cameras without a policy; None: the environment's default.
        image_size: Edge of their images in px; None: the environment's default.
        max_steps: Steps after which an episode is truncated, -1: never; None: the environment's limit.
        real: Options of the real arm.
    """

    env: Literal["sim", "real"] = option("which arm", "sim")
    cameras: list[str] | None = None
    image_size: int | None = None
    max_steps: int | None = None
    real: RealArmOptions = group("real arm (--env real)", RealArmOptions)

    @property
    def on_table(self) -> bool:
        """Return whether the arm is a real one: its scene is not arranged, and success not measured, by a program."""
        return self.env == "real" and not self.real.is_twin

    @property
    def more_cameras(self) -> tuple[str, ...]:
        """Return the names of the cameras of the real arm that are no RealSense cameras; any names."""
        return tuple(self.real.configs()) if self.env == "real" else ()

    @property
    def realtime(self) -> bool:
        """Return whether a control step takes real time."""
        return self.env == "real" and not self.real.lockstep

    def check_environment(self, tasks: Sequence[str], policy: str | None) -> None:
        """Refuse options that the environment would refuse, or that do not fit together.

        Args:
            tasks: The tasks.
            policy: The policy; None: there is none.

        Raises:
            UnknownNameError: There is no task, gripper or camera of this name.
            OptionError: Another option has a value that is not allowed.
        """
        self.check_scene(tasks)
        if self.cameras is not None:
            from smolvla_gym.envs.env_options import check_camera_names

            check_camera_names(self.cameras, self.more_cameras)
        self.real.check(self.env)
        if self.on_table:
            allowed = "only in the simulation and with --port twin"
            if self.randomization is not None:
                self.refuse("randomization", allowed)
            if policy == "expert":
                self.refuse("policy", f"{allowed}: it needs the positions of the objects")

    def find_devices(self) -> None:
        """Check that the devices of a real arm are connected; see :meth:`RealArmOptions.find_devices`."""
        if self.env == "real":
            self.real.find_devices()


def make_env(
    options: EnvironmentOptions, task: str, agent: SmolVLAAgent | None = None, *, render_mode: str | None = None
) -> gym.Env[Any, Any]:
    """Make the environment that the options describe: the simulation, the real arm or its twin.

    Args:
        options: The options, checked.
        task: Name of the task.
        agent: The agent that will act in it: its cameras and image size count; and its rate, where none was given.
        render_mode: As for ``gym.make``.

    Raises:
        UsageError: The cameras on the command line are not those that the policy needs.
        PolicyMismatchError: The policy needs other cameras than those of ``options.cameras``.
        DeviceError: The arm or a camera cannot be found or does not answer.
    """
    import gymnasium as gym

    from smolvla_gym import REAL_ID, SIM_ID

    cameras = None if options.cameras is None else tuple(options.cameras)
    size = None if options.image_size is None else (options.image_size, options.image_size)
    if agent is not None:
        from smolvla_gym.agent.images import env_image_size

        cameras, size = _choose_cameras(options, agent), env_image_size(agent.image_size)
    rate = options.settle_control_hz(None if agent is None else agent.card.control_hz)
    arguments: dict[str, Any] = {"task": task, "gripper": options.gripper, "control_hz": rate}
    limits = {"cameras": cameras, "image_size": size, "max_episode_steps": options.max_steps}
    arguments |= {name: value for name, value in limits.items() if value is not None}
    if not options.on_table:
        arguments |= options.scene_arguments()
    elif options.table is not None:
        arguments["table"] = options.table
    if options.env == "real":
        arguments |= options.real.env_arguments(cameras)
    return gym.make(REAL_ID if options.env == "real" else SIM_ID, render_mode=render_mode, **arguments)


def _choose_cameras(options: EnvironmentOptions, agent: SmolVLAAgent) -> tuple[str, ...]:
    """Return the cameras of an env for an agent: those on the command line, otherwise all that the policy uses.

    A policy that allows a camera to be absent also takes the cameras of a real arm that have a serial number.
    """
    from smolvla_gym.agent.cameras import match_cameras

    used = agent.cameras
    if options.cameras is not None:
        match_cameras(agent.card, options.cameras)
        return tuple(name for name in used if name in options.cameras)
    named = options.real.serials().keys() - {""} if options.env == "real" else set()
    if named and named < set(used) and len(used) - len(named) <= agent.card.empty_cameras:
        return tuple(name for name in used if name in named)
    return used


def announce_homing(env: gym.Env[Any, Any], options: EnvironmentOptions) -> None:
    """Say that the first reset will home the arm, which moves for half a minute to a minute then.

    Raises:
        NotHomedError: The arm has to be homed and ``--home`` is not given.
    """
    if options.env != "real":
        return
    inner: Any = env.unwrapped
    state = inner.backend.link.state()
    if state.homed or state.fault is not None:
        return
    if not options.real.home and not options.real.is_twin:
        raise NotHomedError(
            "The arm does not know its joint angles: after power-up it has to be homed. It moves by itself for half a "
            "minute then: clear its surroundings, keep the emergency stop at hand, and add --home."
        )
    say("homing: the arm moves by itself for half a minute to a minute …")
