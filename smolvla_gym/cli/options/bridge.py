"""Options that ``ros2`` and ``view`` share: an arm that clients command until the program ends."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from smolvla_gym.cli.options.agent import AgentOptions, is_smolvla, make_agent
from smolvla_gym.cli.options.arguments import at_least, positive
from smolvla_gym.cli.options.environment import EnvironmentOptions, announce_homing, make_env
from smolvla_gym.cli.options.parser import group, option

if TYPE_CHECKING:
    import gymnasium as gym

    from smolvla_gym.agent.protocol import Agent
    from smolvla_gym.integrations.bridge.bridge import Bridge
    from smolvla_gym.integrations.bridge.transport import Transport


@dataclass(kw_only=True)
class BridgeOptions(EnvironmentOptions):
    """Options of the arm and of the agent between start and stop.

    Attributes:
        policy: The agent's policy; None: there is no agent.
    """

    policy: str | None = None
    task: str = option("what lies on the simulated table", "lift")
    seed: int = option("seed of the first scene", 2, parse=at_least(0), metavar="S")
    duration: float | None = option("end after so many seconds (default: never)", None, parse=positive, metavar="S")
    image_size: int | None = 256
    max_steps: int | None = -1
    agent: AgentOptions = group("SmolVLA agent", AgentOptions)

    def check(self) -> None:
        """Refuse what would fail later, and devices that are not connected, before anything that takes seconds to load.

        Raises:
            OptionError: An option has a value that is not allowed, or does not fit another one.
            UnknownNameError: There is no task, gripper or policy of this name.
            DeviceError: The arm or its camera is not connected.
        """
        if self.policy is not None:
            self.agent.check(self.policy)
        self.check_environment([self.task], self.policy)
        self.find_devices()

    def make(self, stack: contextlib.ExitStack) -> tuple[gym.Env[Any, Any], Agent | None]:
        """Make the environment, whose episodes have no end, and the agent; ``stack`` closes both."""
        smolvla = None
        if self.policy is not None and is_smolvla(self.policy):
            smolvla = self.agent.load(self.policy, realtime=self.realtime, more_cameras=self.more_cameras)
            stack.callback(smolvla.close)
        env = make_env(self, self.task, smolvla)
        stack.callback(env.close)
        return env, make_agent(self.policy, env, smolvla)

    def make_bridge(
        self, env: gym.Env[Any, Any], transport: Transport, agent: Agent | None, *, raw_images: bool
    ) -> Bridge:
        """Return the bridge between the arm and the clients.

        Args:
            env: The environment.
            transport: The connection to the clients.
            agent: The agent that acts between start and stop.
            raw_images: Whether uncompressed images are sent, too.

        Raises:
            NotHomedError: The arm has to be homed and ``--home`` is not given.
        """
        from smolvla_gym.integrations.bridge.bridge import Bridge

        announce_homing(env, self)
        return Bridge(env, transport, agent=agent, seed=self.seed, raw_images=raw_images)
