"""Objects of MJCF files, which are untrusted: rigid bodies of shapes, with meshes beside the table file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

import mujoco
import numpy as np

from smolvla_gym.errors import OptionError
from smolvla_gym.sim.own_table.mesh_file import MAX_FILE_BYTES, find_file, read_mesh
from smolvla_gym.utils.untrusted import printable, read_file

_MAX_BYTES: Final = 256 << 10
_MAX_ELEMENTS: Final = 300
_MAX_EDGE: Final = 0.4  # m

_ELEMENTS: Final = frozenset(
    {"mujoco", "compiler", "asset", "mesh", "material", "default", "worldbody", "body", "geom", "freejoint", "inertial",
     "site"}
)  # fmt: skip
"""Elements that describe a rigid body. All others are refused, such as those that include files or load plugins."""

_COMPILER: Final = frozenset({"angle", "eulerseq", "autolimits", "inertiafromgeom"})


def read_mjcf(where: str, folder: Path, name: str) -> tuple[str, dict[str, bytes]]:
    """Read an MJCF file of one rigid body.

    Args:
        where: The key, for errors.
        folder: The folder of the table file.
        name: The name in the table file.

    Returns:
        The text, and the content of the mesh files by the names that it has for them.

    Raises:
        OptionError: The file is missing or refused.
    """
    path = find_file(where, folder, name)
    try:
        text = read_file(path, _MAX_BYTES).decode("utf-8")
        if "<!DOCTYPE" in text.upper() or "<!ENTITY" in text.upper():
            raise ValueError("it declares entities")
        root = ElementTree.fromstring(text)  # noqa: S314 - it has no entities
        meshes = _check(root)
    except (OSError, ValueError, ElementTree.ParseError, RecursionError) as error:
        raise OptionError(where, name, f"an MJCF file of one rigid body ({printable(error, 120)})") from error
    files: dict[str, bytes] = {}
    for mesh in meshes:
        file = str(mesh.get("file"))
        read_mesh(where, path.parent, file, 1.0, checks_size=False)
        content = read_file(find_file(where, path.parent, file), MAX_FILE_BYTES)
        # A name of its own: files of two objects may have the same one in the scene.
        unique = hashlib.sha256(content).hexdigest()[:16] + Path(file).suffix
        mesh.set("name", mesh.get("name", Path(file).stem))
        mesh.set("file", unique)
        files[unique] = content
    text = ElementTree.tostring(root, encoding="unicode")
    try:
        model = _compile(text, files)
    except ValueError as error:
        raise OptionError(where, name, f"an MJCF file that MuJoCo takes ({printable(error, 120)})") from error
    solid = [g for g in range(model.ngeom) if model.geom_contype[g] or model.geom_conaffinity[g]]
    reach = np.abs(model.geom_pos).max(initial=0.0) + model.geom_rbound.max(initial=0.0)
    if (
        not solid
        or not np.isfinite(model.geom_rbound).all()
        or reach > _MAX_EDGE
        or not 1e-3 <= model.body_mass.sum() <= 1
    ):
        raise OptionError(where, name, f"a body of up to {_MAX_EDGE:g} m and 0.001 to 1 kg, with shapes that collide")
    return text, files


def rigid_body(text: str, files: dict[str, bytes]) -> tuple[mujoco.MjSpec, Any]:
    """Return the scene of an MJCF text and its body, at its origin and without joints."""
    spec = mujoco.MjSpec.from_string(text, assets=files)
    body = spec.worldbody.first_body()
    for joint in list(body.joints):
        spec.delete(joint)
    body.pos, body.quat = [0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]
    return spec, body


def _compile(text: str, files: dict[str, bytes]) -> Any:
    return rigid_body(text, files)[0].compile()


def _check(root: ElementTree.Element) -> list[ElementTree.Element]:
    """Check the elements of a file; return those that name mesh files.

    Raises:
        ValueError: It has an element, an attribute or a structure that is not allowed.
    """
    elements = list(root.iter())
    if root.tag != "mujoco" or len(elements) > _MAX_ELEMENTS:
        raise ValueError(f"it is no MJCF, or has more than {_MAX_ELEMENTS} elements")
    for element in elements:
        if element.tag not in _ELEMENTS:
            raise ValueError(f"the element {printable(element.tag, 40)} is not allowed")
        if element.tag == "compiler" and not _COMPILER.issuperset(element.attrib):
            raise ValueError(f"compiler may have {', '.join(sorted(_COMPILER))}")
        if any("file" in key.lower() or "plugin" in key.lower() for key in element.attrib) and element.tag != "mesh":
            raise ValueError(f"{element.tag} names a file")
    worlds = root.findall("worldbody")
    if len(worlds) != 1 or len(worlds[0]) != 1 or worlds[0][0].tag != "body":
        raise ValueError("it has one worldbody with one body and nothing else")
    if len(list(worlds[0].iter("freejoint"))) != len(worlds[0][0].findall("freejoint")):
        raise ValueError("a freejoint is inside another body")
    return [mesh for mesh in root.iter("mesh") if mesh.get("file") is not None]
