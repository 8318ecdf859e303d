"""Places at which jaws that point down can hold an object, from the points inside it alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from smolvla_gym.parol6 import Array


@dataclass(frozen=True)
class Jaws:
    """Jaws of a gripper that points down, in m.

    Attributes:
        widest: Distance of the open pads.
        narrowest: Distance of the closed pads.
        thickness: Thickness of a finger along the travel of the jaws.
        half_width: Half of the width of a finger across it.
        below: Distance of the fingertips below the tool centre point.
        pad: Height of the pads above the fingertips.
        palm: Height of the palm above the tool centre point.
        palm_half: Half extents of the palm along the travel of the jaws and across it.
    """

    widest: float
    narrowest: float
    thickness: float
    half_width: float
    below: float
    pad: float
    palm: float
    palm_half: tuple[float, float]


JAWS: Final = {
    "ssg48": Jaws(0.0482, 0.0, 0.0105, 0.0062, 0.009, 0.021, 0.037, (0.050, 0.013)),
    "pneumatic": Jaws(0.032, 0.025, 0.0095, 0.007, 0.0083, 0.019, 0.026, (0.030, 0.013)),
}
"""Jaws by the gripper's name."""

_MARGIN: Final = 0.002
"""Free space in m between an open finger and the object."""

_GROUND: Final = 0.0025
"""Least height in m of the fingertips above the ground."""

_YAWS: Final = np.arange(0.0, np.pi, np.pi / 24)
_SHIFT: Final = 0.004
_FARTHEST: Final = 0.048
_HEIGHTS: Final = 6
_BIN: Final = 0.001
_SPAN: Final = 0.15
"""Distance in m from the middle up to which points count."""

_STEEP: Final = (0.35, 0.5)
"""Greatest difference of a face's places in both halves of what the pads hold, as a share of its extent, across them
and along the fingers: steeper faces slip."""

_NARROWEST: Final = 0.0045
"""Least extent in m across the pads of what they hold."""

_LEAST_AREA: Final = 30e-6  # m^2
_KEPT: Final = 60
_WORST: Final = 0.025
"""Cost above the best one up to which grasps are kept."""


@dataclass(frozen=True, eq=False)
class Grasps:
    """Grasps of an object, the best first.

    Attributes:
        points: Tool centre point relative to the object's position, in the world's axes at yaw 0, in m, shape (n, 3).
        yaws: Directions of the jaws' travel in rad at yaw 0, shape (n,).
        costs: Cost of each, which is a length in m: lower is better. Shape (n,).
        widths: Width of what the jaws hold in m, shape (n,).
    """

    points: Array
    yaws: Array
    costs: Array
    widths: Array


def find_grasps(points: Array, pitch: float, jaws: Jaws, center: Array) -> Grasps:
    """Find grasps.

    Args:
        points: Points inside the object relative to its position, turned as the object lies, in m, shape (n, 3).
        pitch: Distance of neighbouring points in m.
        jaws: The jaws.
        center: Centre of mass in m, shape (3,).
    """
    found: list[tuple[float, Array, float, float]] = []
    ground = float(points[:, 2].min())
    for yaw in _YAWS:
        across = (points[:, :2] - center[:2]) @ [np.cos(yaw), np.sin(yaw)]
        along = (points[:, :2] - center[:2]) @ [-np.sin(yaw), np.cos(yaw)]
        turned = np.column_stack([across, along, points[:, 2]])
        for shift in np.arange(-_FARTHEST, _FARTHEST + 1e-9, _SHIFT):
            slab = turned[np.abs(along - shift) <= jaws.half_width + 0.5 * pitch + 1e-3]
            if len(slab) < 8:
                continue
            palm = turned[np.abs(along - shift) <= jaws.palm_half[1]]
            for cost, middle, height, width in _across(slab, palm, float(shift), pitch, jaws, ground, float(center[2])):
                offset = [
                    np.cos(yaw) * middle - np.sin(yaw) * shift, np.sin(yaw) * middle + np.cos(yaw) * shift
                ]  # fmt: skip
                found.append((cost, np.array([*(center[:2] + offset), height]), float(yaw), width))
    found.sort(key=lambda grasp: grasp[0])
    kept = [grasp for grasp in found if grasp[0] <= found[0][0] + _WORST][:_KEPT]
    return Grasps(
        np.array([point for _, point, _, _ in kept]).reshape(-1, 3), np.array([yaw for _, _, yaw, _ in kept]),
        np.array([cost for cost, _, _, _ in kept]), np.array([width for _, _, _, width in kept]),
    )  # fmt: skip


def _across(
    slab: Array, palm: Array, shift: float, pitch: float, jaws: Jaws, ground: float, center: float
) -> list[tuple[float, float, float, float]]:
    """Return the grasps of a slice across an object: cost, middle across, height and width, the best of each place."""
    lowest, highest = ground + _GROUND + jaws.below, slab[:, 2].max() - 0.004
    best: dict[int, tuple[float, float, float, float]] = {}
    for height in np.linspace(lowest, max(highest, lowest), _HEIGHTS if highest > lowest + 2e-3 else 1):
        tip = height - jaws.below
        above = slab[slab[:, 2] > tip - 1e-3]
        if len(above) < 6:
            continue
        for low, high in _clusters(above[:, 0], pitch, jaws):
            middle, width = 0.5 * (low + high), high - low
            over = palm[np.abs(palm[:, 0] - middle) <= jaws.palm_half[0]]
            if len(over) and over[:, 2].max() > height + jaws.palm:
                continue
            held = above[(above[:, 0] >= low - 1e-6) & (above[:, 0] <= high + 1e-6) & (above[:, 2] <= tip + jaws.pad)]
            cost = _cost(held, low, high, shift, height, pitch, center)
            place = round(middle / 0.004)
            if cost is not None and (place not in best or cost < best[place][0]):
                best[place] = (cost, middle, height, width)
    return list(best.values())


def _clusters(across: Array, pitch: float, jaws: Jaws) -> list[tuple[float, float]]:
    """Return what open jaws can go around: the ends, along the travel of the jaws, of what is then between them."""
    ends = np.unique(np.round(across / _BIN)) * _BIN
    breaks = np.flatnonzero(np.diff(ends) > pitch + 1.5 * _BIN)
    lows = ends[np.concatenate([[0], breaks + 1])] - 0.5 * pitch
    highs = ends[np.concatenate([breaks, [len(ends) - 1]])] + 0.5 * pitch
    found = []
    for first in range(len(lows)):
        for last in range(first, len(lows)):
            low, high = float(lows[first]), float(highs[last])
            width, middle = high - low, 0.5 * (low + high)
            if not jaws.narrowest + 1e-3 < width < jaws.widest - 2.0 * _MARGIN:
                continue
            reach = 0.5 * jaws.widest + jaws.thickness + _MARGIN
            free_left = first == 0 or highs[first - 1] < middle - reach
            free_right = last == len(lows) - 1 or lows[last + 1] > middle + reach
            if free_left and free_right:
                found.append((low, high))
    return found


def _cost(
    held: Array, low: float, high: float, shift: float, height: float, pitch: float, center: float
) -> float | None:
    """Return the cost in m of a grasp; None where the pads would not hold."""
    skin = 1.5 * pitch
    left, right = held[held[:, 0] < low + skin], held[held[:, 0] > high - skin]
    area = min(len(left), len(right)) * pitch**2 / 1.5  # the skin has one to two layers of points
    if area < _LEAST_AREA / 3.0 or np.ptp(held[:, 1]) + pitch < _NARROWEST:
        return None
    # Faces that are not parallel slip out of the jaws.
    slant = 0.0
    for axis, weight, most in ((1, 3.0, _STEEP[0]), (2, 1.5, _STEEP[1])):
        middle = 0.5 * (held[:, axis].min() + held[:, axis].max())
        one, two = held[held[:, axis] <= middle, 0], held[held[:, axis] >= middle, 0]
        ends = max(abs(one.min() - two.min()), abs(one.max() - two.max()))
        if ends > max(most * float(np.ptp(held[:, axis])), pitch):
            return None
        slant += weight * max(float(ends) - 0.5 * pitch, 0.0)
    shear = float(np.linalg.norm(left[:, 1:].mean(axis=0) - right[:, 1:].mean(axis=0)))
    small = 0.01 * max(0.0, 1.0 - area / _LEAST_AREA)
    lever = 1.0 * abs(shift) + 0.3 * abs(height - center)
    return 0.15 * (high - low) + slant + 1.0 * shear + small + lever
