"""The simulated camera shows the scene, or says what is missing."""

from __future__ import annotations

import subprocess
import sys
import threading
from importlib.util import find_spec

import cv2
import numpy as np
import pytest

from openvla_ros.errors import ConfigError
from openvla_ros.robots.description import load_robot
from openvla_ros.sim.camera import Camera
from openvla_ros.sim.world import World


@pytest.fixture(scope="module")
def world() -> World:
    return World("blocks", load_robot("wx250s"))


def project(world: World, point: np.ndarray) -> np.ndarray:
    """Pixel (column, row) of a point in the base frame, by the pinhole model: MuJoCo cameras look along -z, y is up."""
    camera = world.data.camera("over_shoulder")
    x, y, z = camera.xmat.reshape(3, 3).T @ (point - camera.xpos)
    focal = 240 / np.tan(np.radians(world.model.camera("over_shoulder").fovy[0]) / 2)
    return np.array([320 + focal * x / -z, 240 - focal * y / -z])


def test_a_squeezed_picture_shows_what_the_full_one_does(world):
    """A policy trained on small square pictures must find the same in the camera's 640x480, resized."""
    world.reset(1)
    with Camera(world) as camera:
        full = camera.render()
    with Camera(world, width=112, height=112, aspect=640 / 480, oversample=2) as camera:
        squeezed = camera.render()
    assert squeezed.shape == (112, 112, 3)
    resized = cv2.resize(full, (112, 112), interpolation=cv2.INTER_AREA)
    assert np.abs(squeezed.astype(float) - resized).mean() < 2.5
    with Camera(world, width=112, height=112, oversample=2) as camera:
        cropped = camera.render()
    assert np.abs(cropped.astype(float) - resized).mean() > 10


@pytest.mark.parametrize("seed", range(3))
def test_picture_shows_each_block_in_its_colour_where_it_is(world, seed):
    """Neither black, nor upside down, nor mirrored, nor BGR."""
    world.reset(seed)
    with Camera(world) as camera:
        image = camera.render()
    assert image.shape == (480, 640, 3)
    assert image.dtype == np.uint8
    assert (image.max(axis=2) < 60).mean() > 0.03, "the black arm"
    for channel, colour in enumerate(("red", "green", "blue")):
        others = np.delete(image, channel, axis=2).max(axis=2)
        rows, columns = np.nonzero((image[:, :, channel] > 90) & (others < 0.4 * image[:, :, channel]))
        assert 100 < len(rows) < 3000, f"{colour}: {len(rows)} pixels"
        expected = project(world, world.blocks()[colour].position)
        np.testing.assert_allclose([columns.mean(), rows.mean()], expected, atol=5)


def test_picture_follows_the_world(world):
    with Camera(world) as camera:
        world.reset(0)
        before = camera.render()
        np.testing.assert_array_equal(camera.render(), before)
        world.set_arm_target(np.zeros(6))
        for _ in range(100):
            world.step()
        assert (camera.render() != before).mean() > 0.02


def test_works_in_a_thread_of_its_own(world):
    """OpenGL belongs to a thread; the node draws in another than the one that built the world."""
    images = []

    def draw() -> None:
        with Camera(world, width=160, height=120) as camera:
            images.append(camera.render())

    thread = threading.Thread(target=draw)
    thread.start()
    thread.join(30)
    assert images[0].mean() > 50


def test_torch_compiles_in_a_process_that_draws():
    """Mesa and triton each bring an LLVM; loaded in the wrong order they crash the evaluation of a policy."""
    pytest.importorskip("torch")
    if find_spec("triton") is None:
        pytest.skip("no triton")
    code = """
from openvla_ros.robots.description import load_robot
from openvla_ros.sim.camera import Camera
from openvla_ros.sim.world import World
Camera(World("blocks", load_robot("wx250s")), width=64, height=48).render()
import triton._C.libtriton
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_missing_opengl_names_the_packages(world, monkeypatch):
    """On a fresh machine the mend is three Debian packages, not a stack trace of OpenGL."""
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    import mujoco.egl

    def fail(*_):
        raise AttributeError("'NoneType' object has no attribute 'eglQueryString'")

    monkeypatch.setattr(mujoco.egl, "GLContext", fail)
    with pytest.raises(ConfigError, match="apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri"):
        Camera(world)


def test_unknown_backend_camera_and_size_are_named(world, monkeypatch):
    with pytest.raises(ConfigError, match="over_shoulder"):
        Camera(world, "wrist")
    with pytest.raises(ConfigError, match="1280x960"):
        Camera(world, width=4000, height=3000)
    monkeypatch.setenv("MUJOCO_GL", "vulkan")
    with pytest.raises(ConfigError, match="vulkan"):
        Camera(world)
