"""The files of a LeRobotDataset that many episodes share, begun anew when they have grown large."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import pyarrow as pa
import pyarrow.parquet as pq

from openvla_ros.errors import RecordingError
from openvla_ros.images import RGB

FILES_A_CHUNK = 1000
# Every second frame stands alone, so that a reader gets any frame at once, as in LeRobot's own; visually lossless.
_X264 = {"crf": "18", "g": "2", "bf": "0", "preset": "fast"}


class _Series:
    """Files named by chunk and number, as ``pattern`` says. The next one is begun above ``max_mb``."""

    def __init__(self, folder: Path, pattern: str, max_mb: int) -> None:
        self._folder = folder
        self._pattern = pattern
        self._max_bytes = max_mb * 10**6
        self._number = -1

    @property
    def place(self) -> tuple[int, int]:
        """(chunk_index, file_index) of the current file."""
        return divmod(self._number, FILES_A_CHUNK)

    def _path(self) -> Path:
        chunk, file = self.place
        return self._folder / self._pattern.format(chunk_index=chunk, file_index=file)

    def _is_full(self) -> bool:
        return self._number < 0 or self._path().stat().st_size > self._max_bytes

    def _next_path(self) -> Path:
        self._number += 1
        path = self._path()
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


class ParquetFiles(_Series):
    """One row group an episode."""

    def __init__(self, folder: Path, pattern: str, max_mb: int) -> None:
        super().__init__(folder, pattern, max_mb)
        self._writer: pq.ParquetWriter | None = None

    def write(self, table: pa.Table) -> tuple[int, int]:
        """The (chunk_index, file_index) that an episode's rows went to."""
        if self._writer is None or self._is_full():
            self.close()
            self._writer = pq.ParquetWriter(self._next_path(), table.schema)
        self._writer.write_table(table)
        return self.place

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class Videos(_Series):
    """H.264, frame after frame at a constant rate, episode after episode."""

    def __init__(self, folder: Path, pattern: str, max_mb: int, fps: int) -> None:
        super().__init__(folder, pattern, max_mb)
        self._fps = fps
        self._frames = 0
        self._container: av.container.OutputContainer | None = None
        self._stream: av.VideoStream | None = None

    def begin(self) -> tuple[int, int, float]:
        """(chunk_index, file_index, time [s] in that file) at which the next episode's frames will be."""
        if self._container is None or self._is_full():
            self.close()
            self._container = av.open(str(self._next_path()), "w")
            self._stream, self._frames = None, 0
        return *self.place, self._frames / self._fps

    def write(self, rgb: RGB) -> None:
        """The next frame, (H, W, 3) uint8."""
        assert self._container is not None
        if self._stream is None:
            self._stream = self._container.add_stream("libx264", rate=self._fps, options=_X264)
            self._stream.height, self._stream.width = rgb.shape[:2]
            self._stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
        frame.pts, frame.time_base = self._frames, Fraction(1, self._fps)
        self._container.mux(self._stream.encode(frame))
        self._frames += 1

    def close(self) -> None:
        if self._container is not None:
            if self._stream is not None:
                self._container.mux(self._stream.encode())
            self._container.close()


def read_video(path: Path, begin: int, count: int) -> Iterator[RGB]:
    """``count`` frames (H, W, 3) uint8 from frame number ``begin`` on. Raises RecordingError where they end before."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate is not None
        assert stream.time_base is not None
        container.seek(round(begin / stream.average_rate / stream.time_base), stream=stream)
        found = 0
        for frame in container.decode(stream):
            assert frame.pts is not None
            if round(frame.pts * stream.time_base * stream.average_rate) < begin:
                continue
            yield frame.to_ndarray(format="rgb24")
            found += 1
            if found == count:
                return
    raise RecordingError(f"{path} ends after {found} of {count} frames of an episode")
