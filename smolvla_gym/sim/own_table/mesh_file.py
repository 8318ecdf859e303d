"""Triangles and textures of files, which are untrusted."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any, Final

import numpy as np

from smolvla_gym.errors import OptionError, needs_extra
from smolvla_gym.sim.own_table.description import Picture, Triangles
from smolvla_gym.utils.untrusted import check_inside, has_link, parse_json_object, printable, read_file

MAX_FILE_BYTES: Final = 32 << 20
"""Largest file of a mesh or an image in bytes."""

MAX_FACES: Final = 100_000
"""Most triangles of a mesh."""

MAX_EDGE: Final = 4096
"""Longest edge of an image in px."""

_TYPES: Final = ("obj", "stl", "glb")
_MOST_VALUES: Final = 4_000_000


def find_file(where: str, folder: Path, name: str) -> Path:
    """Return the path of a file beside a table file, or in a folder beside it.

    Args:
        where: The key, for errors.
        folder: The folder of the table file.
        name: The name in the table file.

    Raises:
        OptionError: The name leads out of the folder, also by a link.
    """
    allowed = "the name of a file beside the table file, or in a folder beside it, without links"
    try:
        path = check_inside(folder, name)
    except ValueError:
        raise OptionError(where, name, allowed) from None
    if has_link(folder, path):
        raise OptionError(where, name, allowed)
    return path


def read_mesh(
    where: str, folder: Path, name: str, scale: float, *, checks_size: bool = True
) -> tuple[Triangles, Picture | None]:
    """Read the triangles of a file, and the texture that is inside it.

    Args:
        where: The key, for errors.
        folder: The folder of the table file.
        name: The name in the table file.
        scale: Metres of a unit of the file.
        checks_size: Whether a mesh of another size than that of an object is refused.

    Returns:
        The triangles in m, about the middle of their bounding box, and the texture or None.

    Raises:
        OptionError: The file is missing or refused.
        MissingExtraError: The package that reads meshes is not installed.
    """
    path = find_file(where, folder, name)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in _TYPES:
        raise OptionError(where, name, "a file whose name ends in .obj, .stl or .glb")
    content = _read(where, path, name)
    with needs_extra("A mesh in a table file", "table"):
        import trimesh
    try:
        if kind == "glb":
            _check_glb(content)
        # Without a resolver no other file is opened, whatever a material names.
        loaded: Any = trimesh.load(io.BytesIO(content), file_type=kind, resolver=None, process=False)
        mesh: Any = loaded.to_mesh() if hasattr(loaded, "to_mesh") else loaded
        vertices, faces = np.array(mesh.vertices, np.float64), np.array(mesh.faces, np.int64)
    except Exception as error:  # a broken file raises errors of many types in the package that reads it
        raise OptionError(where, name, f"a mesh that can be read ({printable(error, 100)})") from error
    vertices = vertices * scale
    _check_triangles(where, name, vertices, faces, checks_size)
    uv, picture = _texture(mesh, len(vertices))
    middle = 0.5 * (vertices.min(axis=0) + vertices.max(axis=0))
    return Triangles(vertices - middle, faces.astype(np.int32), uv), picture


def read_picture(where: str, folder: Path, name: str) -> Picture:
    """Read an image for a texture.

    Raises:
        OptionError: The file is missing or refused.
    """
    from PIL import Image

    path = find_file(where, folder, name)
    content = _read(where, path, name)
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            if max(image.size) > MAX_EDGE:
                raise ValueError(f"{image.size[0]} x {image.size[1]} px")
            return Picture(_powers(image.convert("RGB")))
    except Exception as error:  # Pillow raises errors of many types
        allowed = f"a PNG or JPEG file of up to {MAX_EDGE} px an edge ({printable(error, 100)})"
        raise OptionError(where, name, allowed) from error


def _read(where: str, path: Path, name: str) -> bytes:
    try:
        return read_file(path, MAX_FILE_BYTES)
    except (OSError, ValueError) as error:
        raise OptionError(where, name, f"a file beside the table file ({printable(error, 100)})") from error


def _powers(image: Any) -> Any:
    """Return an image as an array of at most 1024 px an edge, which every OpenGL takes."""
    image.thumbnail((1024, 1024))
    return np.array(image, np.uint8)


def _check_glb(content: bytes) -> None:
    """Refuse a GLB file that asks for more memory than it has data for.

    Raises:
        ValueError: It is broken, or has too many values.
    """
    if len(content) < 20 or content[:4] != b"glTF":
        raise ValueError("it is no GLB file")
    length = struct.unpack_from("<I", content, 12)[0]
    head = parse_json_object(content[20 : 20 + length])
    accessors = head.get("accessors", [])
    total = sum(int(accessor["count"]) for accessor in accessors)
    nodes = json.dumps(head.get("nodes", []))
    # Each node can show all meshes again.
    if total * max(1, nodes.count('"mesh"')) > _MOST_VALUES or len(head.get("nodes", [])) > 1000:
        raise ValueError("it has too many values")


def _check_triangles(where: str, name: str, vertices: Any, faces: Any, checks_size: bool) -> None:
    if faces.ndim != 2 or faces.shape[1:] != (3,) or not 4 <= len(faces) <= MAX_FACES:
        raise OptionError(where, name, f"a mesh of 4 to {MAX_FACES} triangles")
    if not np.isfinite(vertices).all() or faces.min() < 0 or faces.max() >= len(vertices):
        raise OptionError(where, name, "a mesh of finite numbers whose triangles have corners")
    extent = np.ptp(vertices, axis=0)
    if not checks_size:
        return
    if extent.max() > 0.4 or extent.max() < 0.004 or extent.min() < 5e-4:
        size = " x ".join(f"{edge:.4g}" for edge in extent)
        raise OptionError(where, name, f"a mesh of 0.004 to 0.4 m, and not flat; with its scale it is {size} m")


def _texture(mesh: Any, count: int) -> tuple[Any, Picture | None]:
    """Return the texture coordinates of a mesh and the image that is inside the file, both or None."""
    uv = getattr(mesh.visual, "uv", None)
    if uv is None or np.shape(uv) != (count, 2) or not np.isfinite(uv).all():
        return None, None
    material = getattr(mesh.visual, "material", None)
    image = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
    coordinates = np.array(uv, np.float64)
    if image is None or max(image.size) > MAX_EDGE:
        return coordinates, None
    return coordinates, Picture(_powers(image.convert("RGB")))
