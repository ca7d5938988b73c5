"""Episodes on disk: one folder each, with a rosbag2 bag in MCAP and episode.json. docs/recording.md describes it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from rosbags.interfaces import Qos
from rosbags.typesys.store import Typestore

from openvla_ros.errors import RecordingError
from openvla_ros.images import RGB, ImageError
from openvla_ros.recording import definitions, encode
from openvla_ros.recording.bag import BagReader, BagWriter, Topic, qos, recover
from openvla_ros.recording.images import IMAGE, compress, compressed_image, compressed_topic
from openvla_ros.recording.measure import IMAGES, Measurements, header_stamp, named
from openvla_ros.recording.provenance import FILE_NAME, METADATA_RECORD, EpisodeOutcome, Provenance
from openvla_ros.recording.trace import Trace, TraceFrame, TraceStep

# What the graph offers; nodes/qos.py has the same by role.
_LATCHED = {"instruction", "e_stop", "episode", "safety_status", "policy_info"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def offered_qos(topic: str, typename: str) -> Qos:
    """The QoS of a topic of the graph, for an episode that no publisher was there for."""
    latched = any(named(topic, name) for name in _LATCHED)
    return qos(reliable=typename not in IMAGES, latched=latched, depth=1)


def episode_folder(root: Path, episode_id: str) -> Path:
    """Where an episode goes. Raises RecordingError for an id that can't name a folder."""
    if not _NAME.fullmatch(episode_id):
        raise RecordingError(f"episode_id {episode_id!r} can't name a folder: use letters, digits, '.', '_' and '-'")
    return root / episode_id


class EpisodeWriter:
    """Writes one episode: the recorder's and, where no ROS is, a simulation's. A context manager.

    Leaving it after an exception marks the episode ABORTED. Not thread-safe.
    """

    def __init__(
        self,
        root: Path,
        provenance: Provenance,
        *,
        image_quality: int | None = None,
        compression: str = "zstd",
        max_file_bytes: int = 0,
    ) -> None:
        """The episode's folder is ``root``/episode_id. image_quality: JPEG quality 1..100 of images, None for raw ones.

        Raises RecordingError for a name that can't be a folder or is taken, and for a folder that can't be written.
        """
        self.folder = episode_folder(root, provenance.episode_id)
        self.provenance = provenance
        self._quality = image_quality
        self._store = definitions.typestore()
        self._measurements = Measurements(self._store.deserialize_cdr)
        self._offered: dict[str, tuple[Qos, ...]] = {}  # by topic, as announced
        try:
            self._bag = BagWriter(self.folder, compression, max_file_bytes)
            self._save(provenance)
        except FileExistsError:
            raise RecordingError(f"{self.folder} exists already: give the episode another episode_id") from None
        except OSError as error:
            raise RecordingError(f"no episode can be written in {root}: {error.strerror or error}") from None

    def __enter__(self) -> EpisodeWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and self.provenance.outcome is EpisodeOutcome.UNKNOWN:
            self.provenance = self.provenance.judge(EpisodeOutcome.ABORTED)
        self.close()

    # ---- messages

    def add_topic(self, topic: str, typename: str, offered: Sequence[Qos] = ()) -> None:
        """Announce a topic with the QoS of its publishers. Left out, the first message does it."""
        self._offered[topic] = tuple(offered)
        # Whether an image stays raw is known with the first one.
        if typename != IMAGE or self._quality is None:
            self._topic(topic, typename)

    def write(
        self, topic: str, typename: str, data: bytes, log_time: int, publish_time: int = 0, sequence: int = 0
    ) -> None:
        """A serialized message. Times [ns]; sequence: its publisher's count, 0 if not known. May raise OSError."""
        if typename == IMAGE and self._quality is not None:
            try:
                data = compress(data, self._quality)
                self._offered.setdefault(compressed_topic(topic), self._offered.get(topic, ()))
                topic, typename = compressed_topic(topic), IMAGES[1]
            except ImageError:
                pass  # no colours, a depth image for one: kept as it is
        self._measurements.feed(topic, typename, data, log_time, sequence)
        self._bag.write(self._topic(topic, typename), data, log_time, publish_time, sequence)

    def write_message(self, topic: str, message: Any, time: float) -> None:
        """A message of recording/encode.py, received at ``time`` [s]."""
        typename = message.__msgtype__
        data = bytes(self._store.serialize_cdr(message, typename))
        self._measurements.feed(topic, typename, data, round(time * 1e9))
        self._bag.write(self._topic(topic, typename), data, round(time * 1e9))

    def write_image(self, topic: str, rgb: RGB, stamp: float, time: float | None = None) -> None:
        """A camera image, (H, W, 3) uint8, taken at ``stamp`` and received at ``time`` [s]."""
        time = stamp if time is None else time
        if self._quality is None:
            self.write_message(topic, encode.image(stamp, rgb), time)
        else:
            message = compressed_image(encode.header(stamp, "camera"), rgb, self._quality)
            self.write_message(compressed_topic(topic), message, time)

    def _topic(self, name: str, typename: str) -> Topic:
        known = self._bag.topics.get(name)
        return known or self._bag.add_topic(name, typename, self._offered.get(name) or (offered_qos(name, typename),))

    def flush(self) -> None:
        """Everything written so far becomes readable, whatever happens to this process. May raise OSError."""
        self._bag.flush()

    # ---- the end

    def update(self, provenance: Provenance) -> None:
        """Replace what is known about the episode. May raise OSError."""
        self._save(provenance)

    def measured(self, dropped: dict[str, int] | None = None) -> Provenance:
        """The provenance with what the messages so far tell. dropped: by topic, messages that were not written."""
        about = self._measurements.added_to(self.provenance)
        for topic, count in (dropped or {}).items():
            for name in (topic, compressed_topic(topic)):
                if name in about.topics:
                    about.topics[name].dropped = count
        return about

    def close(self, dropped: dict[str, int] | None = None) -> None:
        """Finish the bag and episode.json. May raise OSError."""
        self._save(self.measured(dropped).model_copy(update={"complete": True}))
        self._bag.close()

    def abandon(self, problem: str, dropped: dict[str, int] | None = None) -> None:
        """Close after an OSError; what was flushed stays readable, and ``problem`` is noted where there is room."""
        self.provenance = self.measured(dropped).model_copy(update={"problem": problem})
        self._bag.abandon()
        with contextlib.suppress(OSError):  # a disk without room for this has said so already
            self.provenance.save(self.folder)

    def _save(self, provenance: Provenance) -> None:
        self.provenance = provenance
        self.provenance.save(self.folder)
        self._bag.set_metadata(METADATA_RECORD, {"json": provenance.model_dump_json()})


@dataclass
class Episode:
    """A recorded episode. Reading needs neither ROS nor its messages: definitions come from the bag."""

    folder: Path
    provenance: Provenance
    bag: BagReader
    _stores: list[Typestore] = field(default_factory=list, repr=False)

    @classmethod
    def open(cls, path: Path | str) -> Episode:
        """An episode's folder, or any rosbag2 bag in MCAP, finished or cut off. Raises RecordingError."""
        folder = Path(path)
        if not folder.exists():
            raise RecordingError(f"there is no episode {folder}")
        bag = BagReader(folder)
        return cls(folder, load_provenance(folder, bag), bag)

    # ---- messages

    def messages(self, *topics: str) -> Iterator[tuple[str, float, Any]]:
        """(topic, time of receiving [s], message) of all or some topics, in the order of that time."""
        for record in self.bag.records(topics or None):
            yield record.topic, record.log_time / 1e9, self.decode(record.data, record.typename)

    def decode(self, data: bytes, typename: str) -> Any:
        return self._store.deserialize_cdr(data, typename)

    @cached_property
    def _store(self) -> Typestore:
        return definitions.typestore_from(self.bag.schemas)

    def topic(self, name: str) -> str | None:
        """The topic of the bag that is the graph's ``name``, in whatever namespace."""
        return next((t for t in sorted(self.bag.topics, key=len) if named(t, name)), None)

    @property
    def cameras(self) -> list[str]:
        """Image topics; the one that the policy looks at, `image`, first."""
        found = [name for name, topic in self.bag.topics.items() if topic.typename in IMAGES]
        return sorted(found, key=lambda t: (not (named(t, "image") or named(t, "image/compressed")), t))

    # ---- what happened

    @cached_property
    def measurements(self) -> Measurements:
        """All messages but the images' pixels, evaluated; its ``trace`` has every step and the arm's path."""
        measurements = Measurements(self.decode, keep_samples=True)
        for r in self.bag.records(name for name in self.bag.topics if name not in self.cameras):
            measurements.feed(r.topic, r.typename, r.data, r.log_time, r.sequence)
        for step in measurements.trace.steps.values():
            step.mode = self.provenance.control.mode
            if "image" in step.stamps:
                step.state = measurements.trace.state_at(step.stamps["image"])
        return measurements

    @property
    def trace(self) -> Trace:
        return self.measurements.trace

    def steps(self, cameras: Sequence[str] | None = None) -> Iterator[TraceStep]:
        """Every action of the policy in its order, with what belongs to it.

        cameras: topics whose images are wanted; None for the first of ``self.cameras``. The first one's is the very
        image that the policy saw (by its stamp), that of the others the newest not younger than it.
        """
        cameras = self.cameras[:1] if cameras is None else cameras
        steps = [s for s in self.trace.steps.values() if s.raw is not None]
        # Where one episode follows another, an action of the first may have been on its way.
        steps = [s for s in steps if s.episode_id == self.provenance.episode_id] or steps
        steps.sort(key=lambda s: s.sequence)
        stamps = [s.stamps["image"] for s in steps]
        streams = [self._frames(topic, stamps, exact=i == 0) for i, topic in enumerate(cameras)]
        for step, *frames in zip(steps, *streams, strict=True):
            step.frames = dict(zip(cameras, frames, strict=True))
            yield step

    def _frames(self, topic: str, stamps: Iterable[float], exact: bool) -> Iterator[TraceFrame | None]:
        """For each of the rising ``stamps`` the image taken then or, if not ``exact``, the last one before."""
        if topic not in self.bag.topics:
            raise RecordingError(f"there is no camera '{topic}' in {self.folder}: {', '.join(self.cameras) or 'none'}")
        records = ((header_stamp(r.data), r) for r in self.bag.records([topic]))
        current, following = None, next(records, None)
        for stamp in stamps:
            while following is not None and following[0] <= stamp:
                current, following = following, next(records, None)
            if current is None or (exact and current[0] != stamp):
                yield None
            else:
                yield TraceFrame(current[0], self.decode(current[1].data, current[1].typename))


def load_provenance(folder: Path, bag: BagReader | None = None) -> Provenance:
    """From episode.json, else from inside the bag, else only the folder's name. Raises RecordingError."""
    file = folder / FILE_NAME
    if file.is_file():
        return Provenance.from_json(file.read_text(), str(file))
    inside = (bag or BagReader(folder)).metadata.get(METADATA_RECORD)
    if inside is not None:
        return Provenance.from_json(inside["json"], f"the record in {folder}")
    return Provenance(episode_id=folder.name, software={}, machine={})


def recover_episode(folder: Path, about: Provenance) -> tuple[Provenance, int]:
    """Mend a cut-off episode: its provenance, measured anew and saved, and how many messages there are."""
    messages = recover(folder)
    episode = Episode.open(folder)
    last = max((r.log_time for r in episode.bag.records()), default=0)
    about = episode.measurements.added_to(about).model_copy(
        update={
            "complete": True,
            "ended": about.ended or (last / 1e9 if messages else None),
            "problem": about.problem or "cut off, then recovered",
        }
    )
    about.save(folder)
    return about, messages


def find_episodes(root: Path) -> list[Path]:
    """Episode folders at or below ``root``, by name."""
    if not root.is_dir():
        raise RecordingError(f"there is no folder {root}")
    return sorted({f.parent for pattern in (FILE_NAME, "*.mcap") for f in root.rglob(pattern)})
