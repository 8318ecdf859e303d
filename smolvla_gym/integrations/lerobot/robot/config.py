"""What LeRobot's command line can choose about the arm."""

from __future__ import annotations

from dataclasses import dataclass, field

from smolvla_gym.errors import MissingExtraError
from smolvla_gym.tasks import check_registered

try:
    from lerobot.robots.config import RobotConfig
    from lerobot.teleoperators.config import TeleoperatorConfig
except ImportError as err:
    raise MissingExtraError("The robot for LeRobot", "smolvla", err) from err


@dataclass(kw_only=True)
class PAROL6Config(RobotConfig):
    """What the real and the simulated arm have in common.

    Attributes:
        task: What to do; ``smolvla-gym tasks`` lists them. A real arm takes nothing from it.
        instruction: What to do, in words. A simulated arm has the objects that it names on its table. None: the
            sentence of LeRobot's ``--dataset.single_task`` or ``--task``; without these what is drawn.
        observed: Names of the cameras, ``wrist`` and ``scene``. (``cameras`` would be LeRobot's own drivers.)
        image_size: Height and width of their pictures in px. Give the policy's own: they are taken larger and averaged
            down, while LeRobot itself would drop pixels.
        fps: Control rate in Hz, the same as LeRobot's own ``--fps``.
        gripper: The gripper that is mounted.
        use_degrees: Whether joints are in degrees and the gripper from 0 to 100, as LeRobot's other arms count. A
            policy that was trained by ``smolvla-gym train``, such as the bundled one, wants rad and 0 to 1: False.
        hold_after_s: The arm is stopped where it is when no action came for so long.
    """

    task: str = "lift"
    instruction: str | None = None
    observed: list[str] = field(default_factory=lambda: ["wrist"])
    image_size: list[int] = field(default_factory=lambda: [256, 256])
    fps: int = 30
    gripper: str = "ssg48"
    use_degrees: bool = True
    hold_after_s: float = 0.5

    def __post_init__(self) -> None:
        """Refuses what a configuration may not ask for."""
        super().__post_init__()
        check_registered(self.task)


@RobotConfig.register_subclass("parol6_follower")
@dataclass(kw_only=True)
class PAROL6FollowerConfig(PAROL6Config):
    """The real arm.

    Attributes:
        port: Serial port of the arm; ``"twin"`` for the virtual twin; None looks for the board on USB.
        camera: Serial number of each camera by name; None takes the only one there is.
        home: Whether to home an arm that does not know its joint angles. It moves by itself for half a minute then.
        speed_scale: Share of the speed limits that may be used.
    """

    port: str | None = None
    camera: dict[str, str] | None = None
    home: bool = False
    speed_scale: float = 0.3


@RobotConfig.register_subclass("parol6_sim")
@dataclass(kw_only=True)
class PAROL6SimConfig(PAROL6Config):
    """The simulated arm, in real time.

    Attributes:
        seed: Seed of the first scene; the following ones count up.
        num_objects: How many objects lie on the table, 2 or 3.
        randomization: How much layout and looks vary, 0 to 2.
        renew_after_s: Seconds after the task was solved until the next scene is laid out; None: it stays.
    """

    seed: int = 0
    num_objects: int = 2
    randomization: int = 1
    renew_after_s: float | None = 1.0


@TeleoperatorConfig.register_subclass("parol6_keyboard")
@dataclass(kw_only=True)
class PAROL6KeyboardConfig(TeleoperatorConfig):
    """The keyboard, in a window that shows what the cameras see."""


@TeleoperatorConfig.register_subclass("parol6_gamepad")
@dataclass(kw_only=True)
class PAROL6GamepadConfig(TeleoperatorConfig):
    """A gamepad, with the same window."""


@TeleoperatorConfig.register_subclass("parol6_expert")
@dataclass(kw_only=True)
class PAROL6ExpertConfig(TeleoperatorConfig):
    """The scripted expert of the task, for ``parol6_sim`` and for the twin."""
