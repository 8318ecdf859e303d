"""Offscreen rendering, with an OpenGL context that is made for the first image."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

import mujoco
import numpy as np
from numpy.typing import NDArray

from smolvla_gym.errors import RenderingError
from smolvla_gym.sim.render_thread import render_thread

Image = NDArray[np.uint8]

Frustum = tuple[float, float, float, float]
"""Left, right, bottom and top edge of a view at unit distance."""


class GLContext(Protocol):
    """OpenGL context of MuJoCo's modules."""

    def make_current(self) -> None:
        """Make this the current context of the thread."""

    def free(self) -> None:
        """Free the context."""


@dataclass(frozen=True)
class Quality:
    """Rendering quality; with a software renderer shadows and smooth edges take most of the time.

    Attributes:
        shadow_size: Edge of the shadow map in px, 0 for no shadows.
        samples: Samples a pixel, 0 for hard edges.
    """

    shadow_size: int
    samples: int


QUALITIES = {"fast": Quality(0, 0), "balanced": Quality(1024, 0), "high": Quality(2048, 4)}


class _Process:
    """Flags of this process: OpenGL does not survive a fork of a process that has rendered."""

    drawing = False
    forked_while_drawing = False

    @classmethod
    def after_fork(cls) -> None:
        cls.forked_while_drawing |= cls.drawing


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_Process.after_fork)


_ANY_BACKEND: Final = ("", "enable", "enabled", "on", "true", "1")
_NO_BACKEND: Final = ("disable", "disabled", "off", "false", "0")


def backend_name() -> str:
    """Return MuJoCo's name of the OpenGL backend.

    ``MUJOCO_GL`` is read as MuJoCo reads it: regardless of case and of blanks around it.
    """
    name = os.environ.get("MUJOCO_GL", "").strip().lower()
    return {"linux": "egl", "darwin": "cgl"}.get(sys.platform, "glfw") if name in _ANY_BACKEND else name


def _no_opengl(error: Exception) -> RenderingError:
    return RenderingError(
        f"No OpenGL context could be made with the backend {backend_name()!r} ({error}). On Debian and Ubuntu install "
        "it with: apt-get install libegl1 libgl1-mesa-dri. Another backend is chosen by MUJOCO_GL=egl, glfw or "
        "osmesa; an env with cameras=() needs none."
    )


def _make_context(width: int, height: int) -> GLContext:
    # MuJoCo chooses its backend from MUJOCO_GL when it is imported; its default, GLFW, needs a display. This module
    # chooses with the first image, and its default on Linux is EGL, which needs no display.
    if _Process.forked_while_drawing:
        raise RenderingError(
            "This process was forked from one that had already rendered images, which OpenGL does not survive. Start "
            'workers by spawn: gym.make_vec(..., vectorization_mode="async", vector_kwargs={"context": "spawn"}), or '
            "make the vector env before the first image."
        )
    if backend_name() in _NO_BACKEND:
        raise RenderingError(
            f"MUJOCO_GL={os.environ['MUJOCO_GL']!r} switches rendering off: set it to egl, glfw or osmesa, or make the "
            "env with cameras=()."
        )
    try:
        if backend_name() == "glfw":
            check_display()
        module = importlib.import_module(f"mujoco.{backend_name()}")
        context: GLContext = module.GLContext(width, height)
        _Process.drawing = True
        return context
    except Exception as error:  # each backend fails with errors of its own
        raise _no_opengl(error) from error


def check_display() -> None:
    """Check that a window can be opened; without a display MuJoCo's viewer would end the whole process.

    Raises:
        RenderingError: There is no display.
    """
    import glfw

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # glfw warns of the same error
        if not glfw.init():
            raise RenderingError(
                'There is no display for a window. Use render_mode="rgb_array" in place of "human" (and MUJOCO_GL=egl '
                "in place of glfw), or a virtual display: apt-get install xvfb && xvfb-run ..."
            )


class OffscreenRenderer:
    """Renderer of images of one model, for callers in any thread.

    Nothing is allocated before the first :meth:`render`, so an environment can be made, pickled and sent to a worker
    process on a machine without OpenGL. The context lives in the render thread of the process.
    """

    def __init__(self, model: mujoco.MjModel, quality: Quality, max_size: tuple[int, int]) -> None:
        """Keep a model; nothing is allocated.

        Args:
            model: The model.
            quality: Rendering quality.
            max_size: Height and width in px of the largest image.
        """
        self._model, self._quality, self._max_size = model, quality, max_size
        self._thread = render_thread()
        self._gl: GLContext | None = None
        self._context: mujoco.MjrContext | None = None
        self._scene: mujoco.MjvScene | None = None
        self._option = mujoco.MjvOption()
        # Groups 0 and 1: the surroundings, 2: visible geoms, 3: collision geoms.
        self._option.geomgroup[3:] = 0
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED

    def _open(self) -> None:
        height, width = self._max_size
        self._gl = _make_context(width, height)
        try:
            self._gl.make_current()
            self._allocate(height, width)
        except BaseException:
            self._free()
            raise

    def _allocate(self, height: int, width: int) -> None:
        visual = self._model.vis
        visual.quality.shadowsize, visual.quality.offsamples = self._quality.shadow_size, self._quality.samples
        visual.global_.offheight, visual.global_.offwidth = height, width
        self._scene = mujoco.MjvScene(self._model, maxgeom=500)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = self._quality.shadow_size > 0
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        self._context = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        self._context.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)

    def render(
        self,
        data: mujoco.MjData,
        camera: str,
        size: tuple[int, int],
        *,
        depth: bool = False,
        frustum: Frustum | None = None,
    ) -> tuple[Image, NDArray[np.float32] | None]:
        """Render the image of a camera.

        Args:
            data: State to render.
            camera: Name of the camera.
            size: Height and width in px.
            depth: Whether to return the distance too.
            frustum: The view; None takes the camera's own.

        Returns:
            The image, shape (H, W, 3), and the distance along the optical axis in m, shape (H, W), or None.

        Raises:
            RenderingError: No OpenGL context could be made.
        """
        return self._thread.call(partial(self._draw, data, camera, size, depth, frustum))

    def device_name(self) -> str:
        """Return OpenGL's name of the renderer, such as ``"llvmpipe (LLVM 19.1.7)"``; empty before an image."""
        return "" if self._gl is None else self._thread.call(self._read_name)

    def _draw(
        self, data: mujoco.MjData, camera: str, size: tuple[int, int], depth: bool, frustum: Frustum | None
    ) -> tuple[Image, NDArray[np.float32] | None]:
        if self._context is None:
            self._open()
        assert self._gl is not None  # noqa: S101 - narrows a type
        assert self._scene is not None  # noqa: S101 - narrows a type
        self._gl.make_current()
        self._camera.fixedcamid = self._model.camera(camera).id
        category = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(self._model, data, self._option, None, self._camera, category, self._scene)
        if frustum is not None:
            self._set_view(frustum)
        height, width = size
        viewport = mujoco.MjrRect(0, 0, width, height)
        mujoco.mjr_render(viewport, self._scene, self._context)
        pixels = np.empty((height, width, 3), np.uint8)
        ndc = np.empty((height, width), np.float32) if depth else None
        mujoco.mjr_readPixels(pixels, ndc, viewport, self._context)
        # OpenGL's rows start at the bottom.
        return np.ascontiguousarray(pixels[::-1]), None if ndc is None else self._metres(ndc[::-1])

    def _set_view(self, frustum: Frustum) -> None:
        assert self._scene is not None  # noqa: S101 - narrows a type
        for camera in self._scene.camera:  # one for each eye of a stereo display
            left, right, camera.frustum_bottom, camera.frustum_top = (edge * camera.frustum_near for edge in frustum)
            camera.frustum_center, camera.frustum_width = 0.5 * (left + right), 0.5 * (right - left)

    def _metres(self, ndc: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the distances in m in MuJoCo's reversed depth buffer (1 at the near plane, 0 at the far one)."""
        near = self._model.vis.map.znear * self._model.stat.extent
        far = self._model.vis.map.zfar * self._model.stat.extent
        metres: NDArray[np.float32] = (near * far / (near + ndc.astype(np.float64) * (far - near))).astype(np.float32)
        return metres

    def close(self) -> None:
        """Free the context; may be called from any thread, and twice."""
        if self._gl is not None:
            self._thread.clean_up(self._free)

    def _free(self) -> None:
        gl, self._gl = self._gl, None
        context, self._context = self._context, None
        if gl is None:
            return
        try:
            if context is not None:
                gl.make_current()
                context.free()
        finally:
            gl.free()

    def _read_name(self) -> str:
        if self._gl is None:
            return ""
        self._gl.make_current()
        try:
            from OpenGL import GL

            return str((GL.glGetString(GL.GL_RENDERER) or b"").decode())
        except Exception:  # the other backends have their own OpenGL
            return ""

    def __del__(self, finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # While the interpreter shuts down, modules that free() needs may be gone already, and sys itself.
        if not finalizing():
            self.close()
