"""Checks that may crash or hang, each in a process of its own: ``python -m smolvla_gym.doctor.probe NAME``."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from smolvla_gym.doctor.finding import Finding, Status, fail, ok, warning

_MARK: Final = "findings: "
"""Prefix of the line with the result; libraries print other lines."""


def probe(name: str, timeout: float) -> list[Finding]:
    """Run a probe in a process of its own.

    Args:
        name: One of ``PROBES``.
        timeout: Time in s that it may take.

    Returns:
        Its findings; a failure if it crashed or hung.
    """
    command = [sys.executable, "-m", "smolvla_gym.doctor.probe", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=timeout)  # noqa: S603 - this Python, no shell
    except subprocess.TimeoutExpired:
        return [fail(name, f"no answer within {timeout:g} s", "Check whether a driver hangs: run the probe alone.")]
    lines = [line.removeprefix(_MARK) for line in done.stdout.splitlines() if line.startswith(_MARK)]
    if done.returncode != 0 or not lines:
        why = f"ended by signal {-done.returncode}" if done.returncode < 0 else f"failed ({done.returncode})"
        last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        return [fail(name, f"{why}: {last[:300]}", "Install it again, or open an issue with this line.")]
    return [Finding(**{**entry, "status": Status(entry["status"])}) for entry in json.loads(lines[-1])]


def _opengl() -> list[Finding]:
    from smolvla_gym.errors import RenderingError

    try:
        # MuJoCo chooses its renderer when it is imported, and may fail there.
        from smolvla_gym.envs.backends.sim import SimBackend
        from smolvla_gym.envs.make_sim import make_sim_env
        from smolvla_gym.sim.rendering import backend_name

        env = make_sim_env(cameras=("wrist",), image_size=(64, 64))
        image = env.reset(seed=0)[0]["pixels"]["wrist"]
    except RenderingError as error:
        return [fail("OpenGL", str(error), "On Debian and Ubuntu: apt-get install libegl1 libgl1-mesa-dri.")]
    renderer = backend.world.device_name() if isinstance(backend := env.backend, SimBackend) else ""
    env.close()
    text = f"{backend_name()}{f', {renderer}' if renderer else ''}: renders an image"
    if int(image.std()) == 0:
        return [fail("OpenGL", f"{text} of one colour", "Set MUJOCO_GL=egl or MUJOCO_GL=osmesa, and try again.")]
    if "llvmpipe" in renderer or "softpipe" in renderer:
        return [ok("OpenGL", f"{text}, on the CPU")]
    return [ok("OpenGL", text)]


def _video() -> list[Finding]:
    import numpy as np

    from smolvla_gym.data.video import read_frames
    from smolvla_gym.episodes.video_recorder import VideoRecorder

    frames = np.random.default_rng(0).integers(0, 255, (4, 64, 64, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        try:
            with VideoRecorder(path, fps=30) as video:
                for frame in frames:
                    video.add(frame)
            count = sum(1 for _ in read_frames(path))
        except Exception as error:
            remedy = "Install PyAV again, which brings FFmpeg: pip install --force-reinstall av."
            return [fail("video", f"H.264 does not work ({type(error).__name__}: {error})", remedy)]
    return [ok("video", f"writes and reads H.264 ({count} frames)")]


def _torch() -> list[Finding]:
    from smolvla_gym.doctor.system import driver_version, is_wsl

    try:
        import torch
    except ModuleNotFoundError:
        return []  # the check of the packages reports it
    built = torch.version.cuda
    findings = [ok("torch", f"{torch.__version__}" + (f", built for CUDA {built}" if built else ", for the CPU alone"))]
    driver = driver_version()
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            findings.append(_gpu(torch, index))
    elif getattr(torch.backends, "mps", None) is not None and torch.backends.mps.is_available():
        findings.append(ok("GPU", "Apple (mps)"))
    elif driver:
        problem, remedy = "this torch has no CUDA", "Install a torch with CUDA."
        if built:
            problem = f"torch for CUDA {built} cannot use it"
            remedy = f"Update the driver, or install a torch that is built for an older CUDA than {built}."
        findings.append(fail("GPU", f"NVIDIA's driver {driver} is installed, and {problem}", remedy))
    else:
        how = "Install the GPU's driver in Windows." if is_wsl() else "The bundled policy needs none; SmolVLA does."
        findings.append(warning("GPU", "none that torch can use", how))
    return findings


def _gpu(torch: Any, index: int) -> Finding:
    properties = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    text = f"{properties.name}, {free / 1e9:.1f} GB free of {total / 1e9:.1f} GB"
    major, minor = torch.cuda.get_device_capability(index)
    known = torch.cuda.get_arch_list()
    # Code for a smaller minor number runs too.
    numbers = [int(arch.removeprefix("sm_").rstrip("af")) for arch in known if arch.startswith("sm_")]
    fits = [number for number in numbers if number // 10 == major and number <= 10 * major + minor]
    if known and not fits and not any(arch.startswith("compute_") for arch in known):
        remedy = "Install a torch that is built for this GPU."
        return fail("GPU", f"{text}: torch was built for {', '.join(known)}, and it is sm_{major}{minor}", remedy)
    value = torch.ones(64, 64, device=f"cuda:{index}")
    if float((value @ value).sum()) != 64**3:
        return fail("GPU", f"{text}: a matrix product is wrong", "Check its memory and its driver.")
    return Finding("GPU", Status.OK, text, free_bytes=free)


def _realsense() -> list[Finding]:
    from smolvla_gym.drivers.cameras.librealsense import list_cameras, load
    from smolvla_gym.errors import DeviceError, MissingExtraError

    try:
        rs = load()
        cameras = list_cameras()
    except MissingExtraError:
        return []  # the check of the packages reports it
    except DeviceError as error:
        return [fail("RealSense SDK", str(error), "pip install libusb-package, or apt-get install libusb-1.0-0.")]
    findings = [ok("RealSense SDK", f"{getattr(rs, '__version__', '2.56 or older')} loads, with libusb")]
    if not cameras:
        remedy = "Plug it into a USB 3 port; on Linux it needs the udev rule of docs/how-to/first-power-up.md."
        findings.append(warning("cameras", "no RealSense is connected", remedy))
    for camera in cameras:
        text = f"{camera} on USB {camera.usb_type or '?'}"
        if camera.usb_type.startswith(("1", "2")):
            remedy = "Use a USB 3 port and a short USB 3 cable: USB 2 gives 10 to 15 smaller images a second."
            findings.append(warning("cameras", text, remedy))
        else:
            findings.append(ok("cameras", text))
    return findings


PROBES: Final[Mapping[str, Callable[[], list[Finding]]]] = {
    "OpenGL": _opengl,
    "video": _video,
    "torch": _torch,
    "RealSense": _realsense,
}


def _main() -> None:
    findings = PROBES[sys.argv[1]]()
    print(f"\n{_MARK}{json.dumps([finding.to_dict() for finding in findings])}", flush=True)


if __name__ == "__main__":
    _main()
