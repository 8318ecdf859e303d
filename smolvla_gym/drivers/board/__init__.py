"""Driver of the PAROL6 control board on a serial line.

From the environment to the wire:

- ``client.py``: the arm as an environment uses it; ``process.py`` (real time), ``inline.py`` (lockstep) implement it.
- ``worker.py``: the worker process that owns the port, ticks every 10 ms, and stops the arm when its parent ends.
- ``requests.py``: the requests from the client to the driver.
- ``driver.py``: the modes of the arm and every reason to stop it: the e-stop, the watchdog, latched faults.
- ``setpoints.py``: setpoints from actions, through the safety gate and the setpoint monitor.
- ``exchange.py``: frames and replies; ``reply_matcher.py`` estimates the latency of replies.
- ``serial_port.py``: finds, opens, reads and writes the port.
- ``homing.py``, ``gripper.py``: one homing with its verification, and the two grippers.
- ``state.py``, ``event_log.py``: settings, state and faults as plain data, and the log file of events.

The e-stop is a bit in each reply: ``driver.py`` latches ``Fault.ESTOP`` and disables the board within the tick that
reads it. The firmware does not act on the e-stop itself.
"""
