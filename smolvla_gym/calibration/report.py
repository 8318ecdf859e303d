"""Report of a calibration: errors, intervals, images with what was found in them, and advice when it is poor."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from smolvla_gym.calibration.board import load_cv2
from smolvla_gym.calibration.bundle import Solution
from smolvla_gym.calibration.detection import Corners
from smolvla_gym.calibration.geometry import quaternion_from_rotation
from smolvla_gym.calibration.lens import Lens
from smolvla_gym.calibration.session import Session, save_image
from smolvla_gym.parol6.calibration import CameraPose, JointOffsets
from smolvla_gym.utils.json_file import save_json

REPORT_FILE: Final = "report.json"

_POOR_PX: Final = 0.3
_POOR_M: Final = {"wrist": 1e-3, "scene": 2e-3}
_POOR_RAD: Final = np.deg2rad(0.2)
_POOR_JOINT_RAD: Final = np.deg2rad(0.15)
_POOR_LINK_M: Final = 1.5e-4
_POOR_OFFSET_RAD: Final = np.deg2rad(1.0)
_MIN_COVERAGE: Final = 0.6
_WIDE_PX: Final = 0.005  # of the focal length


def camera_poses(solution: Solution) -> dict[str, CameraPose]:
    """Return the poses of the cameras by name with their intervals."""
    wrist = solution.state.hand_eye, solution.hand_eye_interval, solution.rms_px, len(solution.residuals)
    poses = {"wrist": _camera_pose("tool", *wrist)}
    if solution.scene is not None:
        scene = solution.scene, solution.scene_interval, solution.scene_rms_px, len(solution.scene_residuals)
        poses["scene"] = _camera_pose("base", *scene)
    return poses


def _camera_pose(parent: Any, pose: Any, interval: Any, rms: float, images: int) -> CameraPose:
    x, y, z = pose[:3, 3].tolist()
    rx, ry, rz, px, py, pz = interval.tolist()
    return CameraPose(
        parent, (x, y, z), quaternion_from_rotation(pose[:3, :3]), (px, py, pz), (rx, ry, rz), rms, images
    )


def joint_offsets(solution: Solution) -> JointOffsets:
    """Return what homing had missed."""
    offsets, interval = solution.state.offsets.tolist(), solution.offsets_interval.tolist()
    return JointOffsets((0.0, *offsets, 0.0), (0.0, *interval, 0.0))


def pose_advice(solution: Solution) -> list[str]:
    """Return sentences of advice where the result is poor; none where it is good."""
    advice = []
    for name, pose in camera_poses(solution).items():
        if pose.rms_px > _POOR_PX:
            advice.append(
                f"The corners of the {name} camera lie {pose.rms_px:.2f} px from their places (good: below "
                f"{_POOR_PX:g}): check focus and light, that the board is flat, its measured length, and the "
                "intrinsics."
            )
        metres, radians = (np.linalg.norm(part) for part in (pose.position_interval_m, pose.rotation_interval_rad))
        if metres > _POOR_M[name] or radians > _POOR_RAD:
            advice.append(
                f"The pose of the {name} camera is known to {1e3 * metres:.1f} mm and {np.rad2deg(radians):.2f} deg "
                "only: take more poses with --poses 25."
            )
    if solution.joint_sigma > _POOR_JOINT_RAD:
        advice.append(
            f"The joints deviate by {np.rad2deg(solution.joint_sigma):.2f} deg from pose to pose (good: below "
            f"{np.rad2deg(_POOR_JOINT_RAD):.2f}): check belts and screws, and that the board did not move."
        )
    if solution.link_sigma > _POOR_LINK_M:
        advice.append(
            f"The links seem to be off by {1e3 * solution.link_sigma:.1f} mm, as printed parts may be: the intervals "
            "include that."
        )
    if np.abs(solution.state.offsets).max() > _POOR_OFFSET_RAD:
        advice.append("Homing missed a joint by more than 1 deg: check its switch, home again, and calibrate again.")
    return advice


def write_pose_report(
    folder: Path, session: Session, solution: Solution, views: dict[str, dict[int, Corners]]
) -> list[str]:
    """Write ``report.json`` and images with the corners that were found; return the lines to print.

    Args:
        folder: The folder.
        session: The images.
        solution: The result.
        views: Corners by camera and number of the pose.
    """
    cv2 = load_cv2()
    for camera, found in views.items():
        for number, corners in found.items():
            image = session.image(camera, number).copy()
            cv2.aruco.drawDetectedCornersCharuco(
                image, corners.pixels.reshape(-1, 1, 2).astype(np.float32), corners.ids.astype(np.int32), (255, 0, 0)
            )
            save_image(folder / "corners" / f"{camera}_{number:02d}.png", image)
    poses, offsets, advice = camera_poses(solution), joint_offsets(solution), pose_advice(solution)
    by_camera = {"wrist": solution.residuals, "scene": solution.scene_residuals}
    save_json(
        folder / REPORT_FILE,
        {
            "cameras": {name: asdict(pose) for name, pose in poses.items()},
            "rms_px_of_images": {
                name: [round(float(np.sqrt(np.mean(r**2))), 4) for r in residuals]
                for name, residuals in by_camera.items()
            },
            "joint_offsets": asdict(offsets),
            "corner_sigma_px": solution.pixel_sigma,
            "joint_sigma_rad": solution.joint_sigma,
            "link_sigma_m": solution.link_sigma,
            "dropped_corners": solution.dropped,
            "advice": advice,
        },
        "report",
    )
    return [*_pose_lines(poses, offsets, solution), *(f"advice: {line}" for line in advice)]


def _pose_lines(poses: dict[str, CameraPose], offsets: JointOffsets, solution: Solution) -> list[str]:
    lines = []
    for name, pose in poses.items():
        place = ", ".join(f"{1e3 * value:.1f}" for value in pose.position)
        metres, radians = (np.linalg.norm(part) for part in (pose.position_interval_m, pose.rotation_interval_rad))
        lines.append(
            f"{name} camera in the frame {pose.parent}: {place} mm; 95 % within {1e3 * metres:.2f} mm and "
            f"{np.rad2deg(radians):.3f} deg; {pose.images} images, reprojection error {pose.rms_px:.3f} px"
        )
    found = ", ".join(
        f"J{joint + 1} {np.rad2deg(offsets.offsets_rad[joint]):+.2f} +- {np.rad2deg(offsets.interval_rad[joint]):.2f}"
        for joint in range(1, 5)
    )
    lines.append(f"homing missed by (deg): {found}")
    lines.append(
        f"joints deviate by {np.rad2deg(solution.joint_sigma):.3f} deg from pose to pose, links by "
        f"{1e3 * solution.link_sigma:.2f} mm; {solution.dropped} corners dropped"
    )
    return lines


def lens_advice(lens: Lens) -> list[str]:
    """Return sentences of advice where the intrinsics are poor."""
    advice = []
    rms = lens.intrinsics.rms_px or 0.0
    if rms > _POOR_PX:
        advice.append(
            f"The corners lie {rms:.2f} px from their places (good: below {_POOR_PX:g}): hold the board still, check "
            "focus and light, and that the board is flat."
        )
    if lens.coverage < _MIN_COVERAGE:
        advice.append(
            f"The board was seen in {100 * lens.coverage:.0f} % of the image: take more images with the board at the "
            "edges and in the corners."
        )
    if max(lens.focal_interval_px) > _WIDE_PX * lens.intrinsics.fx:
        advice.append("The focal length is not well known: tilt the board by 20 to 40 deg in several directions.")
    return advice


def write_lens_report(folder: Path, lens: Lens) -> list[str]:
    """Write ``report.json``, and return the lines to print."""
    advice = lens_advice(lens)
    save_json(folder / REPORT_FILE, asdict(lens) | {"advice": advice}, "report")
    i = lens.intrinsics
    fx, fy = lens.focal_interval_px
    return [
        f"{i.width}x{i.height} px: f {i.fx:.2f} +- {fx:.2f}, {i.fy:.2f} +- {fy:.2f} px; centre {i.ppx:.2f}, "
        f"{i.ppy:.2f} px; k1 {i.distortion[0]:+.4f}, k2 {i.distortion[1]:+.4f}",
        f"{lens.images} images, reprojection error {i.rms_px:.3f} px, corners in {100 * lens.coverage:.0f} % of the "
        "image",
        *(f"advice: {line}" for line in advice),
    ]
