"""What a stream of recorded messages tells: counts, losses, rates, latencies, interventions. Fed message by message, by
the recorder while it writes and by a reader of the bag alike."""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from openvla_ros import messages
from openvla_ros.recording.provenance import Hop, Instruction, Intervention, Measured, Provenance, TopicReport
from openvla_ros.recording.trace import HOPS, Trace, percentiles

ACTION = "openvla_ros/msg/DeltaAction"
COMMAND = "openvla_ros/msg/SafeCommand"
STATUS = "openvla_ros/msg/SafetyStatus"
ARM_STATE = "openvla_ros/msg/ArmState"
EPISODE = "openvla_ros/msg/Episode"
STRING = "std_msgs/msg/String"
BOOL = "std_msgs/msg/Bool"
IMAGES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")

LABEL_TOPIC = "action_label"

_STOPPED = 3  # msg/SafetyStatus.msg
_GAP = 1.5  # times the usual interval between two stamps, from which on a message is counted as missing


def header_stamp(data: bytes | memoryview) -> float:
    """Seconds of the std_msgs/Header that a serialized message begins with, without decoding the rest.

    CDR: 4 bytes of encapsulation, of which the second says little endian, then sec (int32) and nanosec (uint32).
    """
    sec, nanosec = struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, 4)
    return float(sec) + nanosec * 1e-9


def named(topic: str, name: str) -> bool:
    """Whether ``topic`` is the graph's topic ``name`` in any namespace."""
    return topic == name or topic.endswith(f"/{name}")


@dataclass
class _Counter:
    """Counts one topic."""

    typename: str
    messages: int = 0
    first: int = 0  # log time [ns]
    last: int = 0
    sequence: int = 0
    lost: int = 0
    by: str = ""
    stamps: list[float] = field(default_factory=list)

    def count(self, log_time: int, sequence: int) -> None:
        self.messages += 1
        self.first = self.first or log_time
        self.last = max(self.last, log_time)
        if sequence:
            self.by = "publisher"
            self.count_sequence(sequence)

    def count_sequence(self, sequence: int) -> None:
        """A number that rises by one a message. A smaller one is a publisher that has started again."""
        if 0 < self.sequence < sequence:
            self.lost += sequence - self.sequence - 1
        self.sequence = sequence

    def report(self) -> TopicReport:
        lost: int | None = self.lost
        by: Any = self.by
        if not by:
            lost = _gaps(self.stamps)
            by = "" if lost is None else "stamps"
        seconds = (self.last - self.first) * 1e-9
        hz = round((self.messages - 1) / seconds, 3) if self.messages > 1 and seconds > 0 else None
        return TopicReport(type=self.typename, messages=self.messages, lost=lost, counted_by=by, hz=hz)


def _gaps(stamps: list[float]) -> int | None:
    """How many regular stamps are missing; None where there are too few to know what is regular."""
    if len(stamps) < 10:
        return None
    intervals = np.diff(stamps)
    usual = float(np.median(intervals))
    if usual <= 0:
        return None
    return int(np.round(intervals[intervals > _GAP * usual] / usual - 1).sum())


class Measurements:
    """``trace``: filled on the way; with ``keep_samples`` also the arm's path, which a long recording has no room for.

    Messages of the graph's own types are decoded, images never.
    """

    def __init__(self, decode: Callable[[bytes, str], Any], keep_samples: bool = False) -> None:
        self.trace = Trace(keep_samples=keep_samples)
        self.instructions: list[Instruction] = []
        self.interventions: list[Intervention] = []
        self._decode = decode
        self._topics: dict[str, _Counter] = {}
        self._stopped = self._pressed = False

    def feed(self, topic: str, typename: str, data: bytes, log_time: int, sequence: int = 0) -> None:
        """One message. log_time [ns]; sequence: its publisher's count, 0 if not known."""
        counter = self._topics.setdefault(topic, _Counter(typename))
        counter.count(log_time, sequence)
        if typename in IMAGES:
            self.trace.images += 1
            if not sequence:
                counter.stamps.append(header_stamp(data))
        elif typename in (ACTION, COMMAND):
            message = self._decode(data, typename)
            if not sequence:  # the graph's own number tells as well
                counter.by = "sequence"
                counter.count_sequence(int(message.sequence))
            if typename == COMMAND:
                self.trace.on_command(message)
            elif named(topic, LABEL_TOPIC):
                self.trace.on_label(message)
            else:
                self.trace.on_action(message)
        elif typename == STATUS:
            self._on_status(self._decode(data, typename))
        elif typename == ARM_STATE:
            self.trace.on_arm_state(self._decode(data, typename))
        elif typename == STRING and named(topic, "instruction"):
            self._on_instruction(self._decode(data, typename).data, log_time / 1e9)
        elif typename == BOOL and named(topic, "e_stop"):
            self._on_e_stop(bool(self._decode(data, typename).data), log_time / 1e9)

    def _on_status(self, message: Any) -> None:
        self.trace.on_status(message)
        stopped = message.state == _STOPPED
        if stopped != self._stopped:
            self._stopped = stopped
            reasons = "; ".join(f"{r.rule}: {r.detail}" for r in message.reports)
            kind = "safety stop" if stopped else "reset"
            self.interventions.append(
                Intervention(time=messages.seconds(message.header.stamp), kind=kind, detail=reasons if stopped else "")
            )

    def _on_instruction(self, text: str, time: float) -> None:
        if not self.instructions or self.instructions[-1].text != text:
            self.instructions.append(Instruction(time=time, text=text))

    def _on_e_stop(self, pressed: bool, time: float) -> None:
        if pressed != self._pressed:
            self._pressed = pressed
            self.interventions.append(Intervention(time=time, kind=f"e-stop {'pressed' if pressed else 'released'}"))

    def topics(self) -> dict[str, TopicReport]:
        return {name: counter.report() for name, counter in sorted(self._topics.items())}

    def added_to(self, about: Provenance) -> Provenance:
        """``about`` with everything that was measured."""
        # What is recorded beyond the end, for the last motion, may hold the next episode's instruction.
        said = [i for i in self.instructions if about.ended is None or i.time <= about.ended]
        return about.model_copy(
            update={
                "instructions": said or about.instructions,
                "interventions": self.interventions or about.interventions,
                "topics": self.topics(),
                "measured": self.result(),
            }
        )

    def result(self) -> Measured:
        steps = [s for s in self.trace.steps.values() if s.raw is not None]
        ended = [s.stamps["inference_ended"] for s in steps]
        seconds = max(ended) - min(ended) if ended else 0.0
        return Measured(
            actions=len(steps),
            seconds=round(seconds, 3),
            achieved_hz=round((len(steps) - 1) / seconds, 3) if seconds > 0 else None,
            hops_ms={name: hop for name, start, end in HOPS if (hop := self._hop(start, end)) is not None},
            verdicts=dict(Counter(s.verdict for s in steps if s.verdict)),
            reasons={rule: count for (_, rule), count in self.trace.reasons.items()},
            outcomes=dict(Counter(s.outcome for s in steps if s.outcome)),
        )

    def _hop(self, start: str, end: str) -> Hop | None:
        spans = self.trace.hop(None, start, end)
        found = percentiles(spans)
        if found is None or not all(map(math.isfinite, found)):
            return None
        return Hop(p50=round(found[0], 3), p99=round(found[1], 3), actions=len(spans))
