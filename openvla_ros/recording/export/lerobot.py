"""LeRobotDataset v3.0: episodes one after the other in Parquet files, images as MP4 beside them or PNG inside.

The format is that of huggingface/lerobot, src/lerobot/datasets; `openvla-ros export --format lerobot`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from openvla_ros.errors import RecordingError
from openvla_ros.images import RGB, decode_compressed
from openvla_ros.recording.export.lerobot_files import FILES_A_CHUNK, ParquetFiles, Videos, read_video
from openvla_ros.recording.export.lerobot_stats import Pixels, flat, table_stats
from openvla_ros.recording.export.manifest import Manifest
from openvla_ros.recording.export.trajectory import ACTION, PROPRIO, EpisodeTrajectory, Picture, Pictures

VERSION = "v3.0"
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"

_DATA_MB, _VIDEO_MB = 100, 200  # a new file is begun after so much


def image_key(camera: str) -> str:
    return f"observation.images.{camera}"


# ---- writing


def write(
    root: Path, manifest: Manifest, trajectories: Sequence[EpisodeTrajectory], images: Literal["video", "png"] = "video"
) -> Path:
    """The dataset's folder, ``root``/name. images: "video" is H.264, lossy; "png" is lossless and large.

    Raises RecordingError for what the format can't hold.
    """
    if manifest.control_hz != int(manifest.control_hz):
        raise RecordingError(
            f"LeRobot takes whole numbers as fps, not {manifest.control_hz:g}: choose one with --control-hz"
        )
    folder = root / manifest.name
    (folder / "meta").mkdir(parents=True)
    _Writer(folder, manifest, images).write(trajectories)
    return folder


class _Writer:
    def __init__(self, folder: Path, manifest: Manifest, images: Literal["video", "png"]) -> None:
        self._folder = folder
        self._fps = int(manifest.control_hz)
        self._joint_names = list(manifest.joint_names)
        self._keys = {camera: image_key(camera) for camera in manifest.cameras}
        self._videos = {}
        if images == "video":
            self._videos = {
                key: Videos(folder, VIDEO.replace("{video_key}", key), _VIDEO_MB, self._fps)
                for key in self._keys.values()
            }
        self._data = ParquetFiles(folder, DATA, _DATA_MB)
        self._features: dict[str, dict[str, Any]] = {}
        self._tasks: dict[str, int] = {}
        self._frames = 0

    def write(self, trajectories: Sequence[EpisodeTrajectory]) -> None:
        pixels = {key: Pixels() for key in self._keys.values()}
        rows = [self._episode(index, trajectory, pixels) for index, trajectory in enumerate(trajectories)]
        self._data.close()
        for video in self._videos.values():
            video.close()
        file = self._folder / EPISODES.format(chunk_index=0, file_index=0)
        file.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), file)
        tasks = pd.DataFrame({"task_index": list(self._tasks.values())}, index=pd.Index(self._tasks, name="task"))
        tasks.to_parquet(self._folder / "meta" / "tasks.parquet")
        numbers = [name for name in self._features if name not in pixels]
        tables = [pq.read_table(f, columns=numbers) for f in sorted((self._folder / "data").rglob("*.parquet"))]
        stats = table_stats(pa.concat_tables(tables)) | {key: found.stats() for key, found in pixels.items()}
        _write_json(self._folder / "meta" / "stats.json", stats)
        _write_json(self._folder / "meta" / "info.json", self._info(len(rows), trajectories[0].provenance.robot))

    def _info(self, episodes: int, robot: str) -> dict[str, Any]:
        return {
            "codebase_version": VERSION,
            "robot_type": robot or None,
            "total_episodes": episodes,
            "total_frames": self._frames,
            "total_tasks": len(self._tasks),
            "chunks_size": FILES_A_CHUNK,
            "data_files_size_in_mb": _DATA_MB,
            "video_files_size_in_mb": _VIDEO_MB,
            "fps": self._fps,
            "splits": {"train": f"0:{episodes}"},
            "data_path": DATA,
            "video_path": VIDEO if self._videos else None,
            "features": self._features,
        }

    def _episode(self, index: int, trajectory: EpisodeTrajectory, all_pixels: dict[str, Pixels]) -> dict[str, Any]:
        """Write one episode: its row of meta/episodes."""
        begins = {key: videos.begin() for key, videos in self._videos.items()}
        pixels = {key: Pixels() for key in all_pixels}
        embedded = self._write_images(trajectory, pixels)
        table = self._table(index, trajectory, embedded)
        chunk, file = self._data.write(table)
        first, self._frames = self._frames, self._frames + len(trajectory)
        row = {
            "episode_index": index,
            "tasks": list(dict.fromkeys(trajectory.instructions)),
            "length": len(trajectory),
            "data/chunk_index": chunk,
            "data/file_index": file,
            "dataset_from_index": first,
            "dataset_to_index": self._frames,
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
            "episode_id": trajectory.provenance.episode_id,
            "outcome": trajectory.provenance.outcome.value,
        }
        for key, (chunk, file, begin) in begins.items():
            row |= {
                f"videos/{key}/chunk_index": chunk,
                f"videos/{key}/file_index": file,
                f"videos/{key}/from_timestamp": begin,
                f"videos/{key}/to_timestamp": begin + len(trajectory) / self._fps,
            }
        for key, found in pixels.items():
            all_pixels[key].add(found)
        return row | flat(table_stats(table) | {key: found.stats() for key, found in pixels.items()})

    def _write_images(
        self, trajectory: EpisodeTrajectory, pixels: dict[str, Pixels]
    ) -> dict[str, list[dict[str, Any]]]:
        """To the videos, or as PNG into the columns that are returned."""
        columns: dict[str, list[dict[str, Any]]] = {} if self._videos else {key: [] for key in pixels}
        for i, pictures in enumerate(trajectory.pictures()):
            for camera, key in self._keys.items():
                rgb = pictures[camera].rgb()
                if key not in self._features:
                    self._features[key] = self._image_feature(key, rgb)
                pixels[key].count(rgb)
                if self._videos:
                    self._videos[key].write(rgb)
                else:
                    columns[key].append({"bytes": _png(rgb), "path": f"frame-{i:06d}.png"})
        return columns

    def _image_feature(self, key: str, rgb: RGB) -> dict[str, Any]:
        height, width = rgb.shape[:2]
        feature: dict[str, Any] = {"shape": [height, width, 3], "names": ["height", "width", "channels"]}
        if not self._videos:
            return {"dtype": "image", **feature}
        if height % 2 or width % 2:
            raise RecordingError(f"video needs even sizes, {key} has {width} x {height}: export with --images png")
        info = {"height": height, "width": width, "codec": "h264", "pix_fmt": "yuv420p", "fps": self._fps}
        info |= {"channels": 3, "is_depth_map": False}
        feature["info"] = {f"video.{name}": value for name, value in info.items()} | {"has_audio": False}
        return {"dtype": "video", **feature}

    def _table(self, index: int, trajectory: EpisodeTrajectory, embedded: dict[str, list[dict[str, Any]]]) -> pa.Table:
        n = len(trajectory)
        frame = np.arange(n, dtype=np.int64)
        tasks = [self._tasks.setdefault(text, len(self._tasks)) for text in trajectory.instructions]
        columns: dict[str, tuple[Any, list[str] | None]] = {
            # float64: the very actions that were recorded. LeRobot hands them out as float32 tensors all the same.
            "action": (trajectory.actions, list(ACTION)),
            "observation.state": (trajectory.proprio, list(PROPRIO)),
            "joint_positions": (trajectory.joints, self._joint_names),
            "stamp": (trajectory.stamps, None),
            "timestamp": ((frame / self._fps).astype(np.float32), None),
            "frame_index": (frame, None),
            "episode_index": (np.full(n, index, dtype=np.int64), None),
            "index": (self._frames + frame, None),
            "task_index": (np.array(tasks, dtype=np.int64), None),
        }
        arrays: dict[str, pa.Array] = {}
        for key, (values, names) in columns.items():
            self._features[key] = {"dtype": str(values.dtype), "shape": list(values.shape[1:]) or [1], "names": names}
            numbers = pa.array(values.reshape(-1))
            arrays[key] = numbers if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(numbers, values.shape[1])
        for key, images in embedded.items():
            arrays[key] = pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
        return pa.table(arrays)


def _png(rgb: RGB) -> bytes:
    done, data = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    if not done:
        raise RecordingError(f"an image of shape {rgb.shape} could not be written as PNG")
    return data.tobytes()


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=4) + "\n")


# ---- reading


def read(folder: Path, manifest: Manifest) -> Iterator[EpisodeTrajectory]:
    """The trajectories of a dataset that `write` made. Raises RecordingError where it was changed since."""
    rows = [row for file in sorted((folder / "meta" / "episodes").rglob("*.parquet")) for row in _rows(file)]
    lengths = [row["length"] for row in rows]
    if lengths != [episode.transitions for episode in manifest.episodes]:
        raise RecordingError(f"{folder} was changed after the export: its episodes are no longer those of its manifest")
    tasks = pd.read_parquet(folder / "meta" / "tasks.parquet").index.tolist()
    features = json.loads((folder / "meta" / "info.json").read_text())["features"]
    for index, row in enumerate(rows):
        file = folder / DATA.format(chunk_index=row["data/chunk_index"], file_index=row["data/file_index"])
        table = pq.read_table(file, filters=[("episode_index", "=", row["episode_index"])])
        yield EpisodeTrajectory(
            provenance=manifest.provenance(index),
            stamps=_matrix(table, "stamp")[:, 0],
            actions=_matrix(table, "action"),
            proprio=_matrix(table, "observation.state"),
            joints=_matrix(table, "joint_positions"),
            instructions=[tasks[i] for i in table["task_index"].to_pylist()],
            pictures=_Images(folder, row, table, {camera: features[image_key(camera)] for camera in manifest.cameras}),
        )


class _Images:
    """The pictures of one episode, read again with every call."""

    def __init__(self, folder: Path, row: dict[str, Any], table: pa.Table, cameras: dict[str, dict[str, Any]]) -> None:
        self._folder = folder
        self._row = row
        self._table = table
        self._cameras = cameras

    def __call__(self) -> Iterator[Pictures]:
        streams = {camera: self._stream(image_key(camera), feature) for camera, feature in self._cameras.items()}
        for pictures in zip(*streams.values(), strict=True):
            yield dict(zip(streams, pictures, strict=True))

    def _stream(self, key: str, feature: dict[str, Any]) -> Iterator[Picture]:
        if feature["dtype"] == "image":
            for image in self._table[key].to_pylist():
                yield Picture(array=decode_compressed(image["bytes"]))
            return
        row = self._row
        file = VIDEO.format(
            video_key=key, chunk_index=row[f"videos/{key}/chunk_index"], file_index=row[f"videos/{key}/file_index"]
        )
        begin = round(row[f"videos/{key}/from_timestamp"] * feature["info"]["video.fps"])
        for rgb in read_video(self._folder / file, begin, row["length"]):
            yield Picture(array=rgb)


def _rows(file: Path) -> list[dict[str, Any]]:
    names = [name for name in pq.read_schema(file).names if not name.startswith("stats/")]
    rows: list[dict[str, Any]] = pq.read_table(file, columns=names).to_pylist()
    return rows


def _matrix(table: pa.Table, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(n, d) of a column of numbers or of lists of d numbers."""
    column = table[name].combine_chunks()
    values = column.flatten() if pa.types.is_fixed_size_list(column.type) else column
    width = column.type.list_size if pa.types.is_fixed_size_list(column.type) else 1
    return values.to_numpy(zero_copy_only=False).reshape(len(column), width)
