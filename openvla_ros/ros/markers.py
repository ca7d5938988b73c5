"""What RViz shows of the safety filter: workspace, keep-out boxes, table, target and measured pose."""

from __future__ import annotations

from itertools import product

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Vector3
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from openvla_ros.control.safety.config import SafetyConfig
from openvla_ros.ros import conversion
from openvla_ros.types import Array, Pose

_LINE, _SHAFT, _ARROW = 0.003, 0.006, 0.06  # [m] width of the box's edges, width and length of the poses' arrows
GREEN, RED, BLUE, GREY, BROWN = (0.2, 0.8, 0.2), (0.9, 0.1, 0.1), (0.1, 0.4, 1.0), (0.6, 0.6, 0.6), (0.7, 0.55, 0.4)


def safety_markers(
    config: SafetyConfig, target: Pose | None, measured: Pose | None, frame: str, stamp: Time
) -> MarkerArray:
    """All of them, in ``frame``. What is not known is deleted from the screen rather than left where it was."""
    lower, upper = np.array(config.workspace.lower_m), np.array(config.workspace.upper_m)
    markers = [_edges(lower, upper), _table(lower, upper, config.collision.table_height_m)]
    for box in config.keep_out:
        markers.append(_block("keep_out", np.array(box.lower_m), np.array(box.upper_m), RED))
        markers[-1].id = len(markers)
    markers += [_axis("target", target, BLUE), _axis("measured", measured, GREY)]
    for marker in markers:
        marker.header.frame_id, marker.header.stamp = frame, stamp
    return MarkerArray(markers=markers)


def _marker(name: str, kind: int, color: tuple[float, float, float], alpha: float, scale: Array) -> Marker:
    marker = Marker(ns=name, type=kind, action=Marker.ADD)
    marker.color = ColorRGBA(r=color[0], g=color[1], b=color[2], a=alpha)
    marker.scale = Vector3(x=float(scale[0]), y=float(scale[1]), z=float(scale[2]))
    marker.pose.orientation.w = 1.0
    return marker


def _point(position: Array) -> Point:
    return Point(x=float(position[0]), y=float(position[1]), z=float(position[2]))


def _edges(lower: Array, upper: Array) -> Marker:
    """The workspace's twelve edges."""
    marker = _marker("workspace", Marker.LINE_LIST, GREEN, 1.0, np.array([_LINE, 0.0, 0.0]))
    corners = np.array(list(product(*zip(lower, upper, strict=True))))
    for i, j in product(range(8), repeat=2):
        if i < j and (corners[i] != corners[j]).sum() == 1:
            marker.points += [_point(corners[i]), _point(corners[j])]
    return marker


def _block(name: str, lower: Array, upper: Array, color: tuple[float, float, float]) -> Marker:
    marker = _marker(name, Marker.CUBE, color, 0.35, upper - lower)
    marker.pose.position = _point((lower + upper) / 2)
    return marker


def _table(lower: Array, upper: Array, height: float) -> Marker:
    """A thin slab under the workspace, its top at the table's height."""
    bottom, top = np.append(lower[:2], height - _LINE), np.append(upper[:2], height)
    return _block("table", bottom, top, BROWN)


def _axis(name: str, pose: Pose | None, color: tuple[float, float, float]) -> Marker:
    """An arrow along the end effector's own x axis, its point where the end effector is."""
    marker = _marker(name, Marker.ARROW, color, 1.0, np.array([_ARROW, _SHAFT, _SHAFT]))
    if pose is None:
        marker.action = Marker.DELETE
        return marker
    tail = pose.position - _ARROW * pose.rotation.apply([1.0, 0.0, 0.0])
    marker.pose = conversion.pose_msg(Pose(tail, pose.quaternion))
    return marker
