"""The table file that ``smolvla-gym table new`` writes."""

from __future__ import annotations

from typing import Final

TEMPLATE: Final = """\
# A table of your own. Lengths are in m, in the frame of the arm's base: x forward, y to the left, z up, the origin at
# the foot of the arm. `smolvla-gym table check FILE` checks it, `smolvla-gym table show FILE` writes an image of it.

[table]
size = [0.84, 0.90]          # edges along x and y
center = [0.16, 0.0]         # of the top
color = [0.68, 0.64, 0.57]   # red, green, blue from 0 to 1, or a name such as "white"
# texture = "wood"           # or an image file beside this one
# area = [[0.12, 0.32], [-0.13, 0.13]]   # where the middles of objects may be: x and y

# [gripper]
# name = "ssg48"

# The safety gate keeps the arm out of obstacles, also the real one.
# [[obstacles]]
# name = "shelf"
# center = [0.0, 0.45, 0.15]
# size = [0.40, 0.10, 0.30]

# [cameras.scene]
# position = [0.60, -0.32, 0.44]
# target = [0.21, 0.0, 0.04]
# calibration = "calibration.json"   # in place of both

[[objects]]
name = "box"
shape = "box"
size = [0.06, 0.03, 0.02]
color = "red"                # a named colour is the adjective of instructions: "pick up the red box"

[[objects]]
name = "can"
shape = "cylinder"
size = [0.03, 0.05]          # diameter and height
color = "blue"
nouns = ["can", "tin"]

[[objects]]
name = "marker"
shape = "capsule"
size = [0.016, 0.08]         # diameter and whole length
rotation = [90, 0, 0]        # lies on its side
color = "black"
adjectives = ["black", "thick"]

# [[objects]]
# name = "mug"
# mesh = "mug.obj"           # OBJ, STL or GLB
# scale = 0.001              # the file is in mm
# mass = 0.04
# color = "green"
"""
