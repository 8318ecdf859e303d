"""The virtual board on a serial port that any program can open: a pseudo-terminal of Linux or macOS."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import select
import threading
import time
import tty
from collections import deque
from collections.abc import Callable

from smolvla_gym.parol6.protocol import COMMAND_LENGTH, HEADER
from smolvla_gym.twin.faults import Faults
from smolvla_gym.twin.firmware import Firmware
from smolvla_gym.twin.port_folder import PortFolder

_PERIOD = 0.005
"""Period in s at which the thread advances the world to the present when no bytes come."""

_CUT, _PIECES, _PIECE_INTERVAL = 20, 5, 0.002


class VirtualBoard:
    """The firmware behind a port.

    Attributes:
        firmware: The program on the board.
        faults: The injected faults.
        lock: Held while time passes and bytes are handled; other readers of the firmware have to hold it.
        sent: Bytes that it has sent so far.
    """

    def __init__(
        self,
        firmware: Firmware,
        faults: Faults,
        advance: Callable[[float], None],
        *,
        lock: threading.RLock | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Plug the board in.

        Args:
            firmware: The program on the board.
            faults: The injected faults.
            advance: Advances the firmware, and the world around it, to a moment in s of the clock ``now``.
            lock: A lock to use; a new one by default.
            now: The clock in s.
        """
        self.firmware: Firmware = firmware
        self.faults: Faults = faults
        self.sent: int = 0
        self.lock: threading.RLock = threading.RLock() if lock is None else lock
        self._advance, self._now = advance, now
        self._served = now()
        self._random = random.Random(faults.seed)  # noqa: S311 - has to repeat for a seed
        self._outbox: deque[tuple[float, bytes]] = deque()
        self._master = self._slave = -1
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._folder = PortFolder()
        self._link = self._folder.link
        with self.lock:
            self._follow_the_plug()

    @property
    def path(self) -> str:
        """Return the port to open. It stays the same when the cable is pulled and put back."""
        return str(self._link)

    @property
    def plugged(self) -> bool:
        """Return whether the port exists."""
        return self._master >= 0

    def reseed(self, seed: int) -> None:
        """Make the bytes that arrive wrong depend on a seed alone."""
        self._random.seed(seed)

    # -- work --------------------------------------------------------------------------------------------------------

    def service(self, timeout: float = 0.0) -> bool:
        """Handle the bytes written to the port and send the replies that are due.

        Args:
            timeout: How long to wait for bytes, in s.

        Returns:
            Whether bytes had been written.
        """
        with self.lock:
            self._follow_the_plug()
            self._send_what_is_due()
            master = self._master
            if self._outbox:
                timeout = min(timeout, max(self._outbox[0][0] - self._now(), 0.0))
        if master < 0:
            time.sleep(timeout)
        elif timeout > 0.0:
            select.select([master], [], [], timeout)
        with self.lock:
            data = self._read()
            self.firmware.estop_pressed = self.faults.estop
            if self.faults.lost_homing:
                self.firmware.lose_homing()
                self.faults.lost_homing = False
            self._take(data)
            self._send_what_is_due()
        return bool(data)

    def _take(self, data: bytes) -> None:
        """Hand bytes to the firmware at the times at which they came.

        Where this thread had to wait, several packets are there at once. The real board has no such waits, and packets
        that came one after the other, taken at once, would jerk the arm.
        """
        before, now = self._served, self._now()
        pieces = [data[i : i + COMMAND_LENGTH] for i in range(0, len(data), COMMAND_LENGTH)]
        # Two that are equal may have come together; where they did not, the second one changed nothing.
        runs = [b"".join(run) for _, run in itertools.groupby(pieces)]
        for i, run in enumerate(runs):
            self._advance(before + (now - before) * (i + 1) / len(runs))
            for answer in self.firmware.receive(run):
                self._post(answer)
        self._advance(now)
        self._served = now

    def start(self) -> None:
        """Serve the port in a thread of its own, in real time."""
        if self._thread is None:
            self._stopping.clear()
            self._thread = threading.Thread(target=self._run, name="virtual-board", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread. The port stays, without replies."""
        if self._thread is not None:
            self._stopping.set()
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.service(_PERIOD)

    def close(self) -> None:
        """End the thread and remove the port."""
        self.stop()
        with self.lock:
            self._pull()
        self._folder.close()

    def __enter__(self) -> VirtualBoard:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- the cable ---------------------------------------------------------------------------------------------------

    def unplug(self) -> None:
        """Pull the cable: a program that has the port open meets a hang-up. The board keeps its power."""
        self._plug(False)

    def replug(self) -> None:
        """Put the cable back."""
        self._plug(True)

    def _plug(self, wanted: bool) -> None:
        self.faults.unplugged = not wanted
        if self._thread is not threading.current_thread():  # The port must not be closed while the thread polls it.
            while self._thread is not None and self._thread.is_alive() and self.plugged is not wanted:
                time.sleep(_PERIOD)
        with self.lock:
            self._follow_the_plug()

    def _follow_the_plug(self) -> None:
        if self.plugged and self.faults.unplugged:
            self._pull()
        elif not self.plugged and not self.faults.unplugged:
            # The slave stays open here too: else reading the master fails whenever the client closes the port.
            master, self._slave = os.openpty()
            tty.setraw(self._slave)
            os.fchmod(self._slave, 0o600)  # by default some systems let a group write to it
            os.set_blocking(master, False)
            self._link.symlink_to(os.ttyname(self._slave))
            self._master = master  # plugged from here on

    def _pull(self) -> None:
        if self.plugged:
            self._link.unlink(missing_ok=True)
            ends, self._master, self._slave = (self._master, self._slave), -1, -1
            for end in ends:  # from here on a client may notice it
                os.close(end)
            self._outbox.clear()

    # -- bytes -------------------------------------------------------------------------------------------------------

    def _read(self) -> bytes:
        data = b""
        with contextlib.suppress(BlockingIOError):
            while self.plugged and (more := os.read(self._master, 4096)):
                data += more
        return data

    def _post(self, answer: bytes) -> None:
        """Put a reply in the outbox, with the injected faults."""
        faults = self.faults
        if faults.silence:
            return
        spoiled = bytearray(answer)
        if faults.wrong_length:
            spoiled[len(HEADER)] += 1
        if faults.corrupt:
            spoiled[self._random.randrange(len(spoiled))] ^= self._random.randrange(1, 256)
        if faults.partial:
            del spoiled[_CUT:]
        due = self._now() + faults.delay_s
        if self._outbox:  # A line keeps the order.
            due = max(due, self._outbox[-1][0])
        size = -(-len(spoiled) // _PIECES) if faults.drip else len(spoiled)
        for i, start in enumerate(range(0, len(spoiled), size)):
            self._outbox.append((due + i * _PIECE_INTERVAL, bytes(spoiled[start : start + size])))

    def _send_what_is_due(self) -> None:
        while self.plugged and self._outbox and self._outbox[0][0] <= self._now():
            data = self._outbox.popleft()[1]
            with contextlib.suppress(BlockingIOError):  # no program reads: bytes that do not fit are lost, as on USB
                self.sent += os.write(self._master, data)
