"""Programs that this package starts."""

from __future__ import annotations

import subprocess


def end_process(process: subprocess.Popen[str]) -> None:
    """End a program that is still running, and close its pipes; a program that ignores SIGTERM is killed after 10 s."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
