"""The simulated camera shows the scene, or says what is missing."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from openvla_ros.errors import ConfigError
from openvla_ros.robots.description import load_robot
from openvla_ros.sim.camera import Camera
from openvla_ros.sim.world import World


@pytest.fixture(scope="module")
def world() -> World:
    return World("blocks", load_robot("wx250s"))


def test_picture_shows_arm_blocks_and_plate(world):
    """Neither black nor upside down nor BGR: each block's own colour stands where its block is."""
    with Camera(world) as camera:
        for seed in range(3):
            world.reset(seed)
            image = camera.render()
            assert image.shape == (480, 640, 3)
            assert image.dtype == np.uint8
            r, g, b = image.astype(int).transpose(2, 0, 1)
            seen = {"red": r - np.maximum(g, b), "green": g - np.maximum(r, b), "blue": b - np.maximum(r, g)}
            rows, columns = {}, {}
            for colour, excess in seen.items():
                ys, xs = np.nonzero(excess > 70)
                assert 100 < len(ys) < 3000, f"{colour} block: {len(ys)} pixels in scene {seed}"
                rows[colour], columns[colour] = ys.mean(), xs.mean()
            # the camera looks along +x and +y from the right: further along y is higher up and further left
            y = {c: p.position[1] for c, p in world.blocks().items()}
            furthest, nearest = max(y, key=y.__getitem__), min(y, key=y.__getitem__)
            if y[furthest] - y[nearest] > 0.1:
                assert columns[furthest] < columns[nearest]
            assert (image.max(axis=2) < 60).mean() > 0.03, "the black arm"


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
