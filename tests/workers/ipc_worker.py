"""A worker for the tests of ``smolvla_gym.ipc``."""

import contextlib
import os
import sys
import time

from smolvla_gym import errors
from smolvla_gym.ipc import unpack_object


def main(parent):
    print("what a library prints is no message")
    for request in parent.requests:
        match request.do:
            case "echo":
                request.reply(request.arguments)
            case "object":
                request.reply(repr(unpack_object(request.arguments["value"])))
            case "fail":
                error = getattr(errors, request.arguments["kind"])(*request.arguments["arguments"])
                error.add_note("a note")
                request.fail(error)
            case "count":
                for number in range(3):
                    request.report_progress(number)
                request.reply("done")
            case "tell":
                parent.send({"told": 1})
            case "sleep":
                time.sleep(request.arguments["seconds"])
            case "print":
                with contextlib.suppress(OSError):
                    os.write(2, b"no message, and no end of a line")
                request.reply("printed")
            case "die":
                os._exit(3)
            case "descriptors":
                request.reply(sorted(int(name) for name in os.listdir("/proc/self/fd")))
            case "exit with":
                parent.exit_with()
                request.reply()
                time.sleep(60)
    print("the channel is closed", file=sys.stderr)
    return 0
