"""Action server of ROS 2, with goals, feedback and results as messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from smolvla_gym.integrations.ros2.rclpy_messages import fill, message_class, to_dict
from smolvla_gym.integrations.ros_messages import Message


class ActionServer:
    """Action server that accepts every goal; the bridge follows or aborts it.

    A result tells the client the reason, a rejection does not. All of it runs in the thread that spins the node.
    """

    def __init__(
        self, node: Any, prefix: str, name: str, datatype: str, deliver: Callable[[str, Message], None]
    ) -> None:
        """Offer the action.

        Args:
            node: The node.
            prefix: Namespace of the action.
            name: Name of the action in its namespace.
            datatype: Such as ``"control_msgs/FollowJointTrajectory"``.
            deliver: Called with the name and a goal, or with the name and ``/cancel``; both have a ``goal_id``.

        Raises:
            DeviceError: The action's package is not installed.
        """
        self._type, self._name, self._deliver = message_class(datatype, "action"), name, deliver
        self._goals: dict[str, tuple[Any, Any]] = {}
        from rclpy import action  # type: ignore[import-not-found, unused-ignore]
        from rclpy.task import Future  # type: ignore[import-not-found, unused-ignore]

        self._future, self._accepted = Future, action.CancelResponse.ACCEPT
        self._server = action.ActionServer(
            node, self._type, prefix + name, execute_callback=self._execute, handle_accepted_callback=self._accept,
            cancel_callback=self._cancel,
        )  # fmt: skip

    def send(self, kind: str, message: Message) -> None:
        """Send feedback or a result.

        Args:
            kind: ``"feedback"`` or ``"result"``.
            message: The message with its ``goal_id``; a result also has a ``status``: ``"succeed"``, ``"abort"`` or
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
        """Stop the server."""
        self._server.destroy()

    def _accept(self, handle: Any) -> None:
        goal = bytes(handle.goal_id.uuid).hex()
        self._goals[goal] = handle, self._future()
        handle.execute()
        self._deliver(self._name, {"goal_id": goal, **to_dict(handle.request)})

    def _cancel(self, handle: Any) -> Any:
        self._deliver(f"{self._name}/cancel", {"goal_id": bytes(handle.goal_id.uuid).hex()})
        return self._accepted

    async def _execute(self, handle: Any) -> Any:
        status, result = await self._goals[bytes(handle.goal_id.uuid).hex()][1]
        getattr(handle, status)()
        return result
