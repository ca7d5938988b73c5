"""Where an arm's shapes are: how far each extends, and corners that enclose it."""

from __future__ import annotations

from itertools import product

import mujoco
import numpy as np

from openvla_ros.types import Array

SPHERE, CAPSULE = int(mujoco.mjtGeom.mjGEOM_SPHERE), int(mujoco.mjtGeom.mjGEOM_CAPSULE)
CYLINDER, BOX = int(mujoco.mjtGeom.mjGEOM_CYLINDER), int(mujoco.mjtGeom.mjGEOM_BOX)


class Shapes:
    """Geoms (k,) of a model, each a sphere, capsule, cylinder or box. All answers are in the base frame [m]."""

    def __init__(self, model: mujoco.MjModel, geoms: Array) -> None:
        size, kind = model.geom_size[geoms], model.geom_type[geoms]
        box, sphere, cylinder = kind == BOX, kind == SPHERE, kind == CYLINDER
        # Each is a box of half lengths, a disc across its z or a ball, added up (Minkowski).
        self._half = np.where(box[:, None], size, 0.0)
        # Cylinders and capsules lie along their z: half length in size[1], radius in size[0].
        self._half[:, 2] = np.where(box, size[:, 2], np.where(sphere, 0.0, size[:, 1]))
        self._ball = np.where(box | cylinder, 0.0, size[:, 0])[:, None]
        self._disc = np.where(cylinder, size[:, 0], 0.0)[:, None]
        enclosing = self._half + self._ball + self._disc * [1.0, 1.0, 0.0]
        self._corners = np.array(list(product((-1.0, 1.0), repeat=3))).T * enclosing[:, :, None]  # (k, 3, 8)
        self._geoms = geoms

    def extents(self, data: mujoco.MjData) -> tuple[Array, Array]:
        """(k, 3), (k, 3): the least and the greatest coordinates of each shape; exact."""
        places = data.geom_xpos[self._geoms]
        axes = data.geom_xmat[self._geoms].reshape(-1, 3, 3)  # rows: the base frame's axes in the shape's own
        across = np.sqrt(np.maximum(1.0 - axes[:, :, 2] ** 2, 0.0))
        reach = np.matmul(abs(axes), self._half[:, :, None])[:, :, 0] + self._ball + self._disc * across
        return places - reach, places + reach

    def placed_corners(self, places: Array, axes: Array) -> Array:
        """(k, m, 3, 8): x y z of the corners of the box around each shape, along its own axes, at m places.

        places (m, ngeom, 3), axes (m, ngeom, 9): of all geoms, as MuJoCo has them.
        """
        count = len(self._geoms)
        own = axes[:, self._geoms].reshape(-1, count, 3, 3).transpose(1, 0, 2, 3).reshape(count, -1, 3)
        turned = np.matmul(own, self._corners).reshape(count, -1, 3, 8)  # few large products, not many small ones
        found: Array = turned + places[:, self._geoms].transpose(1, 0, 2)[..., None]
        return found
