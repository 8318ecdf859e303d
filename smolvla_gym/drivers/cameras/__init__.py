"""Camera drivers.

Each driver has the members of :class:`smolvla_gym.drivers.cameras.camera.Camera`: it opens the camera in ``start``, and
a thread keeps the newest :class:`~smolvla_gym.drivers.cameras.camera.Frame`.

===================  =======================================================================
``realsense.py``     RealSense cameras; ``librealsense.py`` and ``realsense_stream.py`` belong to it
``uvc.py``           USB cameras, through OpenCV
``mjpeg_source.py``  MJPEG over HTTP; ``multipart.py`` parses its bytes
``video.py``         RTSP and files, through PyAV
===================  =======================================================================

A driver of another camera is a new module here. One that reads a stream of images needs only a
:class:`~smolvla_gym.drivers.cameras.stream_camera.Source`, as
:class:`~smolvla_gym.drivers.cameras.stream_camera.StreamCamera` has the thread, reopening, rotation, undistortion and
crop. ``configs.py`` has the configuration of each kind of camera, and ``make_camera.py`` makes the driver of one. The
tests in ``tests/drivers/test_realsense.py`` and ``test_mjpeg.py`` show what a driver has to survive.

``framing.py`` crops the images of any camera to the view of the simulated one. ``mjpeg_server.py`` and ``serving.py``
send images to other programs, and ``discovery.py`` finds and measures cameras.
"""
