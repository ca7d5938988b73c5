"""Subscribes to topics by name as their publishers appear, for serialized messages, with a QoS that matches theirs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.topic_endpoint_info import TopicEndpointInfo
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime

from openvla_ros.errors import RecordingError
from openvla_ros.recording import definitions
from openvla_ros.recording.measure import ACTION, COMMAND, STATUS
from openvla_ros.recording.recorder import Received

_DEPTH = 200  # messages that may wait for the executor, a topic
_BEFORE = 1_000_000_000  # [ns] that are kept of the time before an episode


@dataclass
class _Topic:
    typename: str
    offered: tuple[Qos, ...]
    subscription: Any
    last: Received | None = None  # of a latched topic


class Subscriptions:
    """``on_message`` gets every message; what is latched is kept as well. `look` has to be called now and then."""

    def __init__(self, node: Node, topics: Iterable[str], on_message: Callable[[Received], None]) -> None:
        self._node = node
        self._wanted = tuple(node.resolve_topic_name(t) for t in topics)
        self._on_message = on_message
        self._topics: dict[str, _Topic] = {}
        self._recent: deque[Received] = deque()
        self.problems: dict[str, str] = {}  # topics that can't be recorded, and why

    @property
    def topics(self) -> dict[str, tuple[str, tuple[Qos, ...]]]:
        """{name: (type, QoS of its publishers)} of what is heard."""
        return {name: (t.typename, t.offered) for name, t in self._topics.items()}

    def before(self, now_ns: int, begin_ns: int) -> list[Received]:
        """What an episode that began at ``begin_ns`` and is recorded from now on has to know of the time before.

        The last message of every latched topic, as if received now; of the rest the last moment, so that the first
        action finds its image and the arm's state. What was decided before the begin belongs to no episode, or another.
        """
        self._forget(now_ns)
        decisions = (ACTION, COMMAND, STATUS)
        recent = [m for m in self._recent if m.typename not in decisions or m.publish_time >= begin_ns]
        kept = [t.last for t in self._topics.values() if t.last is not None and all(t.last is not m for m in recent)]
        return recent + [Received(m.topic, m.typename, m.data, now_ns, m.publish_time) for m in kept]

    def _forget(self, now_ns: int) -> None:
        while self._recent and self._recent[0].log_time < now_ns - _BEFORE:
            self._recent.popleft()

    def look(self) -> dict[str, tuple[str, tuple[Qos, ...]]]:
        """Follow the publishers there are now. Returns the topics heard for the first time, as `topics` does."""
        found = {}
        for name in self._wanted:
            publishers = [
                p for p in self._node.get_publishers_info_by_topic(name) if p.node_name != self._node.get_name()
            ]
            if publishers and self._follow(name, publishers):
                found[name] = self.topics[name]
        return found

    def _follow(self, name: str, publishers: list[TopicEndpointInfo]) -> bool:
        typename = publishers[0].topic_type
        offered = tuple(_qos(p.qos_profile) for p in publishers)
        known = self._topics.get(name)
        if known is not None and known.offered == offered and known.typename == typename:
            return False
        kind = _message_class(typename)
        try:
            definitions.ensure_type(typename)
            if kind is None:
                raise RecordingError(f"{typename} is not installed for Python: source the workspace that has it")
        except RecordingError as error:
            self.problems[name] = str(error)
            return False
        profile = _matching(publishers)
        if known is not None:
            self._node.destroy_subscription(known.subscription)
        latched = profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
        # Publishers count each for itself: what several have sent can't be told from one number.
        counted = len(publishers) == 1

        def on_message(data: bytes, info: dict[str, int]) -> None:
            sequence = int(info.get("publication_sequence_number") or 0) if counted else 0
            log_time = self._node.get_clock().now().nanoseconds
            received = Received(name, typename, data, log_time, int(info.get("source_timestamp") or 0), sequence)
            if latched:
                topic.last = received
            self._recent.append(received)
            self._forget(log_time)
            self._on_message(received)

        topic = _Topic(typename, offered, None)
        # rclpy's annotation leaves out that a callback with two arguments gets the message's info too.
        callback: Any = on_message
        topic.subscription = self._node.create_subscription(kind, name, callback, profile, raw=True)
        self._topics[name] = topic
        return known is None


def _matching(publishers: list[TopicEndpointInfo]) -> QoSProfile:
    """The strictest profile that every publisher is heard with."""

    def everyone(attribute: str, value: Any) -> bool:
        return all(getattr(p.qos_profile, attribute) == value for p in publishers)

    reliable = everyone("reliability", ReliabilityPolicy.RELIABLE)
    latched = everyone("durability", DurabilityPolicy.TRANSIENT_LOCAL)
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=_DEPTH,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


def _qos(profile: QoSProfile) -> Qos:
    """rclpy's profile as bags keep it. Their numbers are rmw's, both times."""

    def time(nanoseconds: int) -> QosTime:
        return QosTime(nanoseconds // 10**9, nanoseconds % 10**9)

    return Qos(
        # Depth and history are not announced by every middleware; without them a player can't offer anything.
        QosHistory(profile.history.value) if profile.history != HistoryPolicy.UNKNOWN else QosHistory.KEEP_LAST,
        profile.depth or 10,
        QosReliability(profile.reliability.value),
        QosDurability(profile.durability.value),
        time(profile.deadline.nanoseconds),
        time(profile.lifespan.nanoseconds),
        QosLiveliness(profile.liveliness.value),
        time(profile.liveliness_lease_duration.nanoseconds),
        profile.avoid_ros_namespace_conventions,
    )


def _message_class(typename: str) -> Any:
    """The Python class of "sensor_msgs/msg/Image", None where its package is not installed."""
    package, _, name = typename.split("/")
    try:
        return getattr(import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError):
        return None
