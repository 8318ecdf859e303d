"""An action of ROS 2, with goals, feedback and results as messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from smolvla_gym.integrations.ros2.rclpy_messages import fill, message_class, to_dict
from smolvla_gym.integrations.ros_messages import Message


class ActionServer:
    """Takes every goal and leaves it to the bridge to obey or abort it: a result tells its client why, a rejection not.

    All of it runs in the thread that spins the node.
    """

    def __init__(self, node: Any, name: str, datatype: str, came: Callable[[str, Message], None]) -> None:
        """Offers the action.

        Args:
            node: The node.
            name: Name of the action.
            datatype: Such as ``"control_msgs/FollowJointTrajectory"``.
            came: Called with the name and a goal, or with the name and ``/cancel``; both have a ``goal_id``.

        Raises:
            DeviceError: The action's package is not installed.
        """
        self._type, self._name, self._came = message_class(datatype, "action"), name, came
        self._goals: dict[str, tuple[Any, Any]] = {}
        from rclpy import action  # type: ignore[import-not-found, unused-ignore]
        from rclpy.task import Future  # type: ignore[import-not-found, unused-ignore]

        self._future, self._yes = Future, action.CancelResponse.ACCEPT
        self._server = action.ActionServer(
            node, self._type, name, execute_callback=self._execute, handle_accepted_callback=self._accept,
            cancel_callback=self._cancel,
        )  # fmt: skip

    def send(self, kind: str, message: Message) -> None:
        """Sends a feedback or a result.

        Args:
            kind: ``"feedback"`` or ``"result"``.
            message: It, with its ``goal_id``; a result has a ``status`` too: ``"succeed"``, ``"abort"`` or
                ``"canceled"``.
        """
        values = dict(message)
        goal = values.pop("goal_id")
        if goal not in self._goals:
            return
        handle, ended = self._goals[goal]
        if kind == "feedback":
            handle.publish_feedback(fill(self._type.Feedback(), values))
            return
        status = values.pop("status")
        if status == "canceled" and not handle.is_cancel_requested:
            status = "abort"
        del self._goals[goal]
        ended.set_result((status, fill(self._type.Result(), values)))

    def close(self) -> None:
        """Ends it."""
        self._server.destroy()

    def _accept(self, handle: Any) -> None:
        goal = bytes(handle.goal_id.uuid).hex()
        self._goals[goal] = handle, self._future()
        handle.execute()
        self._came(self._name, {"goal_id": goal, **to_dict(handle.request)})

    def _cancel(self, handle: Any) -> Any:
        self._came(f"{self._name}/cancel", {"goal_id": bytes(handle.goal_id.uuid).hex()})
        return self._yes

    async def _execute(self, handle: Any) -> Any:
        status, result = await self._goals[bytes(handle.goal_id.uuid).hex()][1]
        getattr(handle, status)()
        return result
