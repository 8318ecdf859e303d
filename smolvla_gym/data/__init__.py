"""Demonstrations as LeRobot datasets v3: record, read, check and convert them.

* Record: :mod:`record` runs episodes; :mod:`dataset` adds them to a dataset, with :mod:`lerobot_writer`,
  :mod:`transaction`, :mod:`lock`, :mod:`folder` and :mod:`disk`, so that a crash loses one episode at most.
* Read: :mod:`reader` opens a dataset for training, :mod:`decoding` decodes its images.
* Check: :mod:`checks` finds defects in datasets of any robot.
* Convert: :mod:`convert` and :mod:`mapping` bring datasets of other recorders into this arm's format.

All of them read the files through :mod:`info`, :mod:`files`, :mod:`tables`, :mod:`rows`, :mod:`instructions`,
:mod:`statistics`, :mod:`seeds` and :mod:`video`, which treat a dataset as untrusted data.
"""
