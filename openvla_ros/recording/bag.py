"""A rosbag2 bag in MCAP: a folder with metadata.yaml and NAME_0.mcap, NAME_1.mcap, ... Written and read without ROS.

What has been flushed is readable whatever happens to the process: the reader copes with a file that has no end.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import yaml
import zstandard
from mcap.exceptions import McapError
from mcap.reader import SeekingReader
from mcap.records import Channel, Chunk, Footer, Message, Metadata, Schema
from mcap.stream_reader import CRCValidationError, StreamReader, breakup_chunk
from mcap.writer import CompressionType, Writer
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2.metadata import dump_qos_v9, parse_qos

from openvla_ros.errors import RecordingError
from openvla_ros.recording import definitions

COMPRESSIONS = {"none": CompressionType.NONE, "lz4": CompressionType.LZ4, "zstd": CompressionType.ZSTD}

_VERSION = 9  # of rosbag2's metadata.yaml: ROS 2 Jazzy and newer
_UNSET = QosTime(9223372036, 854775807)  # rmw's infinite duration
# What a file that ends anywhere, or has a damaged byte, makes its readers raise.
_DAMAGE = (McapError, CRCValidationError, struct.error, zstandard.ZstdError, RuntimeError, ValueError, EOFError)


def qos(reliable: bool = True, latched: bool = False, depth: int = 10) -> Qos:
    """An offered QoS profile with nothing else out of the ordinary."""
    return Qos(
        QosHistory.KEEP_LAST,
        depth,
        QosReliability.RELIABLE if reliable else QosReliability.BEST_EFFORT,
        QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        _UNSET,
        _UNSET,
        QosLiveliness.AUTOMATIC,
        _UNSET,
        avoid_ros_namespace_conventions=False,
    )


@dataclass
class Topic:
    """A topic of a bag. ``offered``: the QoS profiles of its publishers, which `ros2 bag play` offers again."""

    name: str
    typename: str
    offered: tuple[Qos, ...] = ()
    count: int = 0
    channel: int = 0  # in the current file


@dataclass
class _File:
    path: Path
    begin: int = 0
    end: int = 0
    count: int = 0

    def extend(self, time_ns: int) -> None:
        self.begin = min(self.begin, time_ns) if self.count else time_ns
        self.end = max(self.end, time_ns)
        self.count += 1

    def entry(self) -> dict[str, Any]:
        return {
            "path": self.path.name,
            "starting_time": {"nanoseconds_since_epoch": self.begin},
            "duration": {"nanoseconds": self.end - self.begin},
            "message_count": self.count,
        }


class BagWriter:
    """Writes a new bag. Not thread-safe. Every method may raise OSError, such as for a full disk: then `abandon`."""

    def __init__(self, folder: Path, compression: str = "zstd", max_file_bytes: int = 0) -> None:
        """``folder`` must not exist. ``max_file_bytes``: a new file is begun after so many, 0 for never."""
        self.folder = folder
        self._compression = COMPRESSIONS[compression]
        self._max_file_bytes = max_file_bytes
        self._topics: dict[str, Topic] = {}
        self._files: list[_File] = []
        self._metadata: dict[str, dict[str, str]] = {}
        folder.mkdir(parents=True)
        self._open_file()
        self._write_yaml()

    @property
    def topics(self) -> dict[str, Topic]:
        return self._topics

    def add_topic(self, name: str, typename: str, offered: Iterable[Qos] = ()) -> Topic:
        """Announce a topic. Raises RecordingError where the definition of its type is not to be found."""
        definitions.ensure_type(typename)
        topic = self._topics[name] = Topic(name, typename, tuple(offered))
        self._register(topic)
        self._changed = True
        return topic

    def set_metadata(self, name: str, values: dict[str, str]) -> None:
        """Put a metadata record into the bag, again into every file that follows. The last of a name counts."""
        self._metadata[name] = values
        self._writer.add_metadata(name, values)

    def write(self, topic: Topic, data: bytes, log_time: int, publish_time: int = 0, sequence: int = 0) -> None:
        """Append a serialized message.

        log_time: when it was received, publish_time: when it was sent [ns]; sequence: its publisher's count, 0 if not
        known.
        """
        self._writer.add_message(topic.channel, log_time, data, publish_time or log_time, sequence % 2**32)
        topic.count += 1
        self._files[-1].extend(log_time)
        if self._max_file_bytes and self._stream.tell() > self._max_file_bytes:
            self._close_file()
            self._open_file()
            self._write_yaml()

    def flush(self) -> None:
        """Hand everything over to the system: from now on it is readable, even if this process is killed."""
        self._writer.flush()
        if self._changed:
            self._write_yaml()

    def close(self) -> None:
        self._close_file()
        self._write_yaml()

    def abandon(self) -> None:
        """Close after an error; what was flushed stays readable."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.close()
        with contextlib.suppress(OSError):
            self._write_yaml()

    def _open_file(self) -> None:
        path = self.folder / f"{self.folder.name}_{len(self._files)}.mcap"
        self._stream = path.open("xb")
        with contextlib.suppress(OSError):  # a network file system may have no locks
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # see in_use
        self._files.append(_File(path))
        self._writer = Writer(self._stream, compression=self._compression)
        self._writer.start(profile="ros2", library="openvla_ros")
        self._schemas: dict[str, int] = {}
        for topic in self._topics.values():
            self._register(topic)
        for name, values in self._metadata.items():
            self._writer.add_metadata(name, values)
        self._stream.flush()

    def _close_file(self) -> None:
        self._writer.finish()
        self._stream.close()

    def _register(self, topic: Topic) -> None:
        text = definitions.definition(topic.typename)
        if topic.typename not in self._schemas:
            self._schemas[topic.typename] = self._writer.register_schema(topic.typename, "ros2msg", text.encode())
        offered = yaml.safe_dump(dump_qos_v9(list(topic.offered)))
        values = {"offered_qos_profiles": offered, "topic_type_hash": definitions.type_hash(topic.typename)}
        topic.channel = self._writer.register_channel(topic.name, "cdr", self._schemas[topic.typename], values)

    def _write_yaml(self) -> None:
        write_metadata_yaml(self.folder, self._files, self._topics.values())
        self._changed = False


def write_metadata_yaml(folder: Path, files: list[_File], topics: Iterable[Topic]) -> None:
    """metadata.yaml as rosbag2 of Jazzy writes it, in one step: there is never half a file."""
    filled = [f for f in files if f.count]
    begin = min((f.begin for f in filled), default=0)
    information = {
        "version": _VERSION,
        "storage_identifier": "mcap",
        "duration": {"nanoseconds": max((f.end for f in filled), default=begin) - begin},
        "starting_time": {"nanoseconds_since_epoch": begin},
        "message_count": sum(f.count for f in files),
        "topics_with_message_count": [
            {
                "topic_metadata": {
                    "name": t.name,
                    "type": t.typename,
                    "serialization_format": "cdr",
                    "offered_qos_profiles": dump_qos_v9(list(t.offered)),
                    "type_description_hash": definitions.type_hash(t.typename),
                },
                "message_count": t.count,
            }
            for t in topics
        ],
        "compression_format": "",  # that of rosbag2; MCAP compresses its own chunks
        "compression_mode": "",
        "relative_file_paths": [f.path.name for f in files],
        "files": [f.entry() for f in files],
        "custom_data": None,
        "ros_distro": os.environ.get("ROS_DISTRO", "unknown"),
    }
    draft = folder / "metadata.yaml.part"
    draft.write_text(yaml.dump({"rosbag2_bagfile_information": information}, Dumper=_Dumper, sort_keys=False))
    draft.replace(folder / "metadata.yaml")


class _Dumper(yaml.SafeDumper):
    """Writes no anchors: rosbag2's reader does without."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


@dataclass(frozen=True)
class Record:
    """A message of a bag, serialized. Times [ns] as in BagWriter.write."""

    topic: str
    typename: str
    data: bytes
    log_time: int
    publish_time: int
    sequence: int


@dataclass
class BagReader:
    """Reads the bag in a folder, or one .mcap file. ``complete`` is known after reading: whether every file has its
    end."""

    path: Path
    complete: bool = True
    schemas: dict[str, str] = field(default_factory=dict)  # type -> definition
    topics: dict[str, Topic] = field(default_factory=dict)
    metadata: dict[str, dict[str, str]] = field(default_factory=dict)  # the last record of each name

    def __post_init__(self) -> None:
        self.files = _bag_files(self.path)
        for file in self.files:
            with file.open("rb") as stream:
                if not self._read_summary(stream):
                    self.complete = False
                    self._scan(stream)

    def records(self, topics: Iterable[str] | None = None) -> Iterator[Record]:
        """The messages of all or some topics, by log time (within a chunk where a file has no end).

        Raises RecordingError where a finished file is damaged.
        """
        wanted = None if topics is None else set(topics)
        for file in self.files:
            with file.open("rb") as stream:
                try:
                    yield from self._records(stream, wanted)
                except _DAMAGE as error:
                    raise RecordingError(f"{file} is damaged: {error or type(error).__name__}") from None

    def _records(self, stream: IO[bytes], topics: set[str] | None) -> Iterator[Record]:
        if _has_end(stream):
            triples: Any = SeekingReader(stream, validate_crcs=True).iter_messages(topics)
        else:
            triples = _surviving_messages(stream)
        for schema, channel, message in triples:
            if topics is None or channel.topic in topics:
                yield Record(
                    channel.topic, schema.name, message.data, message.log_time, message.publish_time, message.sequence
                )

    def _read_summary(self, stream: IO[bytes]) -> bool:
        """Topics, definitions and metadata from the file's index. False where it has none."""
        if not _has_end(stream):
            return False
        reader = SeekingReader(stream)
        summary = reader.get_summary()
        if summary is None or summary.statistics is None:
            return False
        for channel in summary.channels.values():
            count = summary.statistics.channel_message_counts.get(channel.id, 0)
            self._add(summary.schemas[channel.schema_id], channel, count)
        self.metadata |= {record.name: record.metadata for record in reader.iter_metadata()}
        return True

    def _scan(self, stream: IO[bytes]) -> None:
        """The same from a file without an end: all of it has to be read."""
        for record in _surviving_records(stream):
            if isinstance(record, Metadata):
                self.metadata[record.name] = record.metadata
        for schema, channel, _ in _surviving_messages(stream):
            self._add(schema, channel, 1)

    def _add(self, schema: Schema, channel: Channel, count: int) -> None:
        self.schemas[schema.name] = schema.data.decode()
        known = self.topics.setdefault(channel.topic, Topic(channel.topic, schema.name, _offered(channel)))
        known.count += count


def _offered(channel: Channel) -> tuple[Qos, ...]:
    return tuple(parse_qos(channel.metadata.get("offered_qos_profiles", "")))


def _bag_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    files = sorted(path.glob("*.mcap"), key=lambda f: int(f.stem.rpartition("_")[2]) if "_" in f.stem else 0)
    if not files:
        raise RecordingError(f"{path} is not an episode: there is no .mcap file in it")
    return files


def _has_end(stream: IO[bytes]) -> bool:
    """Whether an MCAP file was closed: its footer and magic are there."""
    stream.seek(0, 2)
    if stream.tell() < 100:
        return False
    stream.seek(-37, 2)
    end = stream.read()
    stream.seek(0)
    return end[:1] == b"\x02" and end[-8:] == b"\x89MCAP0\r\n"


def _surviving_records(stream: IO[bytes]) -> Iterator[Any]:
    """Records, chunks opened, up to where the file ends or is damaged."""
    stream.seek(0)
    with contextlib.suppress(*_DAMAGE):
        for record in StreamReader(stream, emit_chunks=True, record_size_limit=2**30).records:
            if isinstance(record, Chunk):
                yield from breakup_chunk(record, validate_crc=True)
            elif isinstance(record, Footer):
                return
            else:
                yield record


def _surviving_messages(stream: IO[bytes]) -> Iterator[tuple[Schema, Channel, Message]]:
    schemas: dict[int, Schema] = {}
    channels: dict[int, Channel] = {}
    for record in _surviving_records(stream):
        if isinstance(record, Schema):
            schemas[record.id] = record
        elif isinstance(record, Channel):
            channels[record.id] = record
        elif isinstance(record, Message):
            channel = channels[record.channel_id]
            yield schemas[channel.schema_id], channel, record


def in_use(folder: Path) -> bool:
    """Whether some process is writing this bag."""
    for path in folder.glob("*.mcap"):
        with path.open("rb") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
    return False


def recover(folder: Path) -> int:
    """Give the bag in ``folder`` what a killed recorder could not write: footer, index, metadata.yaml.

    Returns how many messages there are. What can't be read any more is lost; nothing else is. Raises RecordingError
    for a bag that is still being written.
    """
    if in_use(folder):
        raise RecordingError(f"{folder} is being recorded: it gets its end by itself")
    reader = BagReader(folder)
    files = []
    for path in reader.files:
        with path.open("rb") as source:
            if _has_end(source):
                files.append(_indexed(path, source))
                continue
            draft = path.with_suffix(".part")
            with draft.open("wb") as target:
                files.append(_rewrite(path, source, target))
        draft.replace(path)
    write_metadata_yaml(folder, files, reader.topics.values())
    return sum(f.count for f in files)


def _indexed(path: Path, source: IO[bytes]) -> _File:
    summary = SeekingReader(source).get_summary()
    if summary is None or summary.statistics is None:
        raise RecordingError(f"{path} has no statistics: not written by this package or rosbag2, left as it is")
    statistics = summary.statistics
    return _File(path, statistics.message_start_time, statistics.message_end_time, statistics.message_count)


def _rewrite(path: Path, source: IO[bytes], target: IO[bytes]) -> _File:
    """Copy every record that can still be read, then the end that is missing."""
    file = _File(path)
    writer = Writer(target)
    writer.start(profile="ros2", library="openvla_ros")
    schemas: dict[int, int] = {}
    channels: dict[int, int] = {}
    for record in _surviving_records(source):
        if isinstance(record, Schema):
            schemas[record.id] = writer.register_schema(record.name, record.encoding, record.data)
        elif isinstance(record, Channel):
            channels[record.id] = writer.register_channel(
                record.topic, record.message_encoding, schemas[record.schema_id], record.metadata
            )
        elif isinstance(record, Metadata):
            writer.add_metadata(record.name, record.metadata)
        elif isinstance(record, Message):
            file.extend(record.log_time)
            channel = channels[record.channel_id]
            writer.add_message(channel, record.log_time, record.data, record.publish_time, record.sequence)
    writer.finish()
    return file
