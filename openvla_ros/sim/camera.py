"""Offscreen pictures of a simulated world."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import cv2
import mujoco
import numpy as np
from numpy.typing import NDArray

from openvla_ros.errors import ConfigError
from openvla_ros.sim.world import World

MAX_GEOMS = 1000


class Camera:
    """Renders one fixed camera of a world. Use it from the thread that made it, and close it.

    OpenGL comes from EGL, which needs neither a display nor a GPU; MUJOCO_GL=osmesa or glfw chooses another.
    fine adds shadows and antialiasing for pictures that people look at, at many times the cost. aspect: width to height
    of what is seen, where the picture is to show it squeezed; None: that of the picture. oversample: drawn so many
    times larger and averaged, which comes near to drawing a large picture and resizing it.
    Raises ConfigError if OpenGL cannot start or the scene has no such camera.
    """

    def __init__(
        self,
        world: World,
        name: str = "over_shoulder",
        width: int = 640,
        height: int = 480,
        fine: bool = False,
        aspect: float | None = None,
        oversample: int = 1,
    ) -> None:
        self._world = world
        self._aspect = width / height if aspect is None else aspect
        self._size = (width, height)
        width, height = width * oversample, height * oversample
        camera_id = mujoco.mj_name2id(world.model, mujoco.mjtObj.mjOBJ_CAMERA, name)
        if camera_id < 0:
            known = [world.model.camera(i).name for i in range(world.model.ncam)]
            raise ConfigError(f"the scene has no camera {name!r}; it has {known}")
        largest = world.model.vis.global_
        if width > largest.offwidth or height > largest.offheight:
            raise ConfigError(f"{width}x{height} is more than the scene's {largest.offwidth}x{largest.offheight}")
        world.model.vis.quality.offsamples = 8 if fine else 0  # read when the context is made
        self._gl = _open_gl(width, height)
        self._gl.make_current()
        self._context = mujoco.MjrContext(world.model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._view = mujoco.MjvCamera()
        self._view.type, self._view.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, camera_id
        self._option = mujoco.MjvOption()
        self._scene = mujoco.MjvScene(world.model, MAX_GEOMS)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = fine
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        self._rect = mujoco.MjrRect(0, 0, width, height)

    def render(self) -> NDArray[np.uint8]:
        """The world as it is now, (height, width, 3) RGB."""
        world = self._world
        self._gl.make_current()
        category = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(world.model, world.data, self._option, None, self._view, category, self._scene)
        for eye in self._scene.camera:  # half the width of what is seen, at the near plane
            eye.frustum_width = self._aspect * (eye.frustum_top - eye.frustum_bottom) / 2
        mujoco.mjr_render(self._rect, self._scene, self._context)
        pixels = np.empty((self._rect.height, self._rect.width, 3), np.uint8)
        mujoco.mjr_readPixels(pixels, None, self._rect, self._context)
        picture = np.ascontiguousarray(pixels[::-1])  # OpenGL's first row is the lowest
        if self._size == (self._rect.width, self._rect.height):
            return picture
        return cast(NDArray[np.uint8], cv2.resize(picture, self._size, interpolation=cv2.INTER_AREA))

    def close(self) -> None:
        """Give OpenGL's resources back."""
        if self._gl is not None:
            self._gl.make_current()
            self._context.free()
            self._gl.free()
            self._gl = None

    def __enter__(self) -> Camera:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open_gl(width: int, height: int) -> Any:
    """An OpenGL context. Chosen here, because mujoco's own choice is fixed when it is first imported."""
    backend = os.environ.get("MUJOCO_GL") or ("egl" if sys.platform == "linux" else "glfw")
    if backend not in ("egl", "osmesa", "glfw"):
        raise ConfigError(f"MUJOCO_GL is {backend!r}; the simulated camera needs 'egl', 'osmesa' or 'glfw'")
    _load_triton()
    try:
        return import_module(f"mujoco.{backend}").GLContext(width, height)
    except Exception as error:  # the backends raise as they please: ImportError, AttributeError, GLError, ...
        packages = {"egl": "libegl1 libegl-mesa0 libgl1-mesa-dri", "osmesa": "libosmesa6", "glfw": "libgl1 libglfw3"}
        raise ConfigError(
            f"the simulated camera cannot start OpenGL through {backend} ({type(error).__name__}: {error}); "
            f"on Debian or Ubuntu: sudo apt-get install {packages[backend]}"
        ) from error


@cache
def _load_triton() -> None:
    """Load triton's library, where there is one, before Mesa's.

    Both bring an LLVM. After Mesa's, loading triton's crashes the process, and torch may do so at any time.
    """
    triton = find_spec("triton")
    if triton is not None and triton.origin is not None:
        with contextlib.suppress(OSError):  # one that can't be loaded can't crash either
            ctypes.CDLL(str(Path(triton.origin).parent / "_C" / "libtriton.so"))
