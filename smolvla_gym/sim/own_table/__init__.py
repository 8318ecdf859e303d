"""A table of one's own, described by a TOML file: its top, obstacles, camera poses and objects.

=====================  =================================================================================
``description``        the description as plain values, which a scene is compiled from
``keys``               the keys of the file, their checks and the JSON schema
``reader``             reads a file, which is untrusted
``mesh_file``          reads triangles of OBJ, STL and GLB files
``mjcf_file``          reads objects of MJCF files
``convex_parts``       convex parts of a mesh, and their cache
``build``              adds the objects to a scene
``rest``               the pose in which an object comes to rest on a table
``template``           the file that ``smolvla-gym table new`` writes
=====================  =================================================================================
"""

from smolvla_gym.sim.own_table.description import OwnTable
from smolvla_gym.sim.own_table.reader import read_table

__all__ = ["OwnTable", "read_table"]
