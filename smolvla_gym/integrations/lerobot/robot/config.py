"""Configurations of the arm for LeRobot's command line."""

from __future__ import annotations

from dataclasses import dataclass, field

from smolvla_gym.errors import OptionError, needs_extra
from smolvla_gym.tasks import check_registered

with needs_extra("The robot for LeRobot", "smolvla"):
    from lerobot.cameras.configs import CameraConfig
    from lerobot.robots.config import RobotConfig
    from lerobot.teleoperators.config import TeleoperatorConfig


@dataclass(kw_only=True)
class PAROL6Config(RobotConfig):
    """Options of the real and the simulated arm.

    Attributes:
        task: Name of the task; ``smolvla-gym tasks`` lists them. It has no effect on a real arm.
        instruction: Instruction. The table of a simulated arm has the objects that it names. None: that of LeRobot's
            ``--dataset.single_task`` or ``--task``; without these it is drawn.
        observed: Names of the cameras, ``wrist`` and ``scene``. (``cameras`` of the real arm configures other ones.)
        image_size: Height and width of their images in px. Give the policy's own: images are rendered larger and
            averaged down, while LeRobot itself would drop pixels.
        fps: Control rate in Hz, the same as LeRobot's own ``--fps``.
        gripper: Name of the mounted gripper.
        use_degrees: Whether joints are in degrees and the gripper from 0 to 100, as for LeRobot's other arms. A policy
            that was trained by ``smolvla-gym train``, such as the bundled one, needs rad and 0 to 1: False.
        hold_after_s: Time in s without an action after which the arm stops.
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
        """Check the task.

        Raises:
            UnknownNameError: There is no such task.
        """
        super().__post_init__()
        check_registered(self.task)


@RobotConfig.register_subclass("parol6_follower")
@dataclass(kw_only=True)
class PAROL6FollowerConfig(PAROL6Config):
    """The real arm.

    Attributes:
        port: Serial port of the arm; ``"twin"`` for the virtual twin; None: it is searched on USB.
        cameras: Cameras by name as LeRobot configures them for its own arms, in place of ``camera``; they are observed
            whatever ``observed`` says. This package's drivers read them.
        camera: Serial number of each camera by name; None takes the only one there is.
        home: Whether to home an arm that does not know its joint angles. It moves by itself for half a minute to a
            minute then.
        speed_scale: Share of the speed limits that may be used.
        mount_guard: Whether to compare the cameras with the images that ``smolvla-gym mount-guard keep`` kept.
        mount_images: Folder of these images; None: the default one.
    """

    port: str | None = None
    camera: dict[str, str] | None = None
    cameras: dict[str, CameraConfig] = field(default_factory=dict)
    home: bool = False
    speed_scale: float = 0.3
    mount_guard: bool = True
    mount_images: str | None = None

    def __post_init__(self) -> None:
        """Check the task and the cameras.

        Raises:
            UnknownNameError: There is no such task.
            OptionError: There are serial numbers and configurations.
        """
        super().__post_init__()
        if self.cameras:
            if self.camera is not None:
                raise OptionError("camera", self.camera, "None where cameras are configured")
            self.observed: list[str] = list(self.cameras)


@RobotConfig.register_subclass("parol6_sim")
@dataclass(kw_only=True)
class PAROL6SimConfig(PAROL6Config):
    """The simulated arm, in real time.

    Attributes:
        seed: Seed of the first scene; the following ones count up.
        num_objects: Number of objects on the table, 2 or 3.
        randomization: Level of the domain randomization, 0 to 2.
        renew_after_s: Time in s from a success to the next scene; None: the scene stays.
    """

    seed: int = 0
    num_objects: int = 2
    randomization: int = 1
    renew_after_s: float | None = 1.0


@TeleoperatorConfig.register_subclass("parol6_keyboard")
@dataclass(kw_only=True)
class PAROL6KeyboardConfig(TeleoperatorConfig):
    """The keyboard, with a window that shows the camera images."""


@TeleoperatorConfig.register_subclass("parol6_gamepad")
@dataclass(kw_only=True)
class PAROL6GamepadConfig(TeleoperatorConfig):
    """A gamepad, with the same window."""


@TeleoperatorConfig.register_subclass("parol6_expert")
@dataclass(kw_only=True)
class PAROL6ExpertConfig(TeleoperatorConfig):
    """The scripted expert of the task, for ``parol6_sim`` and for the twin."""
