"""Camera drivers.

A driver of another camera is a new module here, with a class that has the members of
:class:`smolvla_gym.drivers.cameras.camera.Camera`: it opens the camera in ``start``, and a thread keeps the newest
:class:`~smolvla_gym.drivers.cameras.camera.Frame`. ``realsense.py`` is the example. ``envs/backends/camera_rig.py``
makes the driver of each camera of an environment, and ``envs/real_options.py`` checks its serial number and options.
The tests in ``tests/drivers/test_realsense.py`` show what a driver has to survive.

``framing.py`` crops the images of any camera to the view of the simulated one. ``librealsense.py`` and
``realsense_stream.py`` belong to the RealSense driver.
"""
