"""Worker processes: start one, exchange messages with it, notice when either process ends, share camera frames with it.

Three parts of the package run in a process of their own: the driver of the control board, the twin, and a policy. Each
is a module with a function ``main(parent)``; :class:`Worker` starts it, and :class:`Parent` is what ``main`` gets.

*Channel.* A message is one line of JSON of at most ``MAX_MESSAGE`` bytes, on pipes that the parent made: the worker's
standard input, and a copy of its standard output. What libraries print in the worker goes to standard error. A request
has a number and gets one reply with the same number, and any number of progress messages before it. Messages without a
number go from the worker to the parent only. Nothing in a message is executed or unpickled; :func:`unpack_object` is
for a field in which the parent or the worker put an object with :func:`pack_object`, and the board's driver has none.

*Descriptors.* A worker inherits its pipes, standard error and the descriptors that it is given, and no others.

*End of the parent.* ``Parent.requests`` ends when the parent closes the channel, ends in any way, or sends a line that
is no request. A fork of the parent may hold the pipe open, so the worker also compares the id of its parent process.

*End of the worker.* A request raises ``WorkerExitedError`` with the exit status as soon as the worker's pipe closes.
``Worker.silence`` is the time since its last message, by which a worker that sends a heartbeat is known to hang.

*Signals.* A worker has a session of its own, so that Ctrl-C in a terminal reaches only the program that started it.
"""

from smolvla_gym.ipc.messages import MAX_MESSAGE, Message, pack_object, parse_message, unpack_object
from smolvla_gym.ipc.parent import Parent, Request
from smolvla_gym.ipc.shared_frame import SharedFrame, make_frame_memory
from smolvla_gym.ipc.worker import Worker, WorkerExitedError, WorkerTimeoutError

__all__ = [
    "MAX_MESSAGE", "Message", "Parent", "Request", "SharedFrame", "Worker", "WorkerExitedError",
    "WorkerTimeoutError", "make_frame_memory", "pack_object", "parse_message", "unpack_object",
]  # fmt: skip
