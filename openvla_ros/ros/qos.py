"""The QoS profiles of the graph, by role."""

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

CAMERA = QoSProfile(reliability=ReliabilityPolicy.BEST_EFFORT, history=HistoryPolicy.KEEP_LAST, depth=1)
"""Latest image only: an old one is worth nothing."""

HEARTBEAT = QoSProfile(reliability=ReliabilityPolicy.BEST_EFFORT, history=HistoryPolicy.KEEP_LAST, depth=1)
"""A sign of life: one that had to be sent again says nothing about now."""

LATEST = QoSProfile(reliability=ReliabilityPolicy.RELIABLE, history=HistoryPolicy.KEEP_LAST, depth=1)
"""Actions, commands, arm states: delivered, and only the newest counts."""

COMMAND = QoSProfile(reliability=ReliabilityPolicy.RELIABLE, history=HistoryPolicy.KEEP_LAST, depth=10)
"""Commands: each goes on from the one before, so none may be overwritten."""

STREAM = QoSProfile(reliability=ReliabilityPolicy.RELIABLE, history=HistoryPolicy.KEEP_LAST, depth=10)
"""Joint states and trajectories, as ros2_control speaks them."""

LATCHED = QoSProfile(
    reliability=ReliabilityPolicy.RELIABLE,
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
"""What a late joiner must know: instruction, e-stop, episode."""

STATUS = QoSProfile(
    reliability=ReliabilityPolicy.RELIABLE,
    history=HistoryPolicy.KEEP_LAST,
    depth=10,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
"""safety_status: a verdict must not be overwritten by the heartbeat that follows it."""

E_STOP = (
    QoSProfile(
        reliability=ReliabilityPolicy.RELIABLE,
        history=HistoryPolicy.KEEP_LAST,
        depth=100,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
    ),
    QoSProfile(reliability=ReliabilityPolicy.BEST_EFFORT, history=HistoryPolicy.KEEP_LAST, depth=100),
)
"""How the stop button is heard: a latched one also late, and whatever else presses, volatile or best effort, as well.

With room for all that was said meanwhile: a short press is True, and at once False again.
"""
