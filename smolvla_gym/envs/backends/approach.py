"""Routes of a real arm to homing and to its start pose, checked before the arm moves."""

from __future__ import annotations

import contextlib

import numpy as np

from smolvla_gym.drivers.board.state import BoardState, Mode
from smolvla_gym.envs.backends.homing_check import SAFE_POSES, homing_contact
from smolvla_gym.envs.reset_options import STANDS, ResetOptions
from smolvla_gym.errors import FaultError
from smolvla_gym.parol6 import Array, Gripper
from smolvla_gym.parol6.protocol import GripperObject
from smolvla_gym.safety.collision import refuse_contact
from smolvla_gym.safety.gate import Guard
from smolvla_gym.safety.route import BlockedError, find_route


class Approach:
    """Planner of routes without contacts, by the collision check of the arm's safety gate. It moves nothing.

    Attributes:
        guard: Check of poses that must not be commanded; None allows all.
    """

    def __init__(self, gripper: Gripper, guard: Guard | None, speed_scale: float) -> None:
        """Keep the check.

        Args:
            gripper: The gripper that is mounted.
            guard: Check of poses that must not be commanded; None allows all.
            speed_scale: Share of the speed limits that the arm's gate uses.
        """
        self._gripper, self._speed_scale = gripper, speed_scale
        self.guard: Guard | None = guard

    def stands(self, state: BoardState, options: ResetOptions) -> bool:
        """Return whether the arm stands at its start pose already, and stays there."""
        return state.homed and not options.home and bool(np.abs(state.joints - options.joints).max() < STANDS)

    def refuse_contact(self, state: BoardState, options: ResetOptions) -> None:
        """Refuse a start pose with contacts, unless the arm stands there already.

        Raises:
            OptionError: The start pose has contacts.
        """
        if self.guard is not None and not self.stands(state, options):
            found = self.guard.violations(options.joints.tolist(), options.opening)
            refuse_contact(options.joints, [violation.where for violation in found])

    def route_to_start(self, here: Array, opening: float, options: ResetOptions) -> list[Array]:
        """Find the route to the start pose.

        Args:
            here: Joint angles in rad at which the arm rests before, shape (6,).
            opening: Opening of the gripper there, 0..1.
            options: Options with the start pose.

        Returns:
            The poses to drive to, the start pose last.

        Raises:
            FaultError: Each route is blocked.
        """
        try:
            return self._route(here, opening, options.joints, options.opening)
        except BlockedError as error:
            raise FaultError(
                f"No route to the start pose was found: the safety gate keeps {error} apart. Nothing moved. Move the "
                'arm away first, or choose another start pose with reset(options={"joints": ...}).'
            ) from None

    def route_to_homing(self, state: BoardState) -> list[Array]:
        """Find the route to a pose from which the board's search for its switches has no contacts.

        Args:
            state: The arm at rest; it knows its joint angles.

        Returns:
            The poses to drive to; none if the search has no contacts from where the arm stands.

        Raises:
            FaultError: There is no such route, or the gripper may hold an object.
        """
        here, opening = state.commanded, state.opening
        holds = state.gripper_ready and state.gripper_object is GripperObject.WHILE_CLOSING
        # An air gripper does not report objects.
        if holds or (self._gripper.binary and state.mode is Mode.READY and opening < 0.5):
            raise FaultError(
                "Homing is refused: the gripper is closed and may hold an object, which the search for the switches "
                "would swing. Nothing moved. Put the object down and open the gripper, then home."
            )
        if (contact := self._contact(here, opening)) is None:
            return []
        for pose in SAFE_POSES:
            if self._contact(pose, opening) is None:
                with contextlib.suppress(BlockedError):
                    return self._route(here, opening, pose, opening)
        raise FaultError(
            f"Homing is refused: from this pose the search for the switches brings {contact} into contact, and the "
            "route to a safe pose is blocked. Nothing moved. Drive the arm upright, clear of the table and of itself, "
            "then home."
        )

    def _contact(self, joints: Array, opening: float) -> str | None:
        return None if self.guard is None else homing_contact(joints, opening, self.guard, self._gripper.name)

    def _route(self, here: Array, opening: float, joints: Array, goal_opening: float) -> list[Array]:
        return find_route(here, opening, joints, goal_opening, self.guard, speed_scale=self._speed_scale)
