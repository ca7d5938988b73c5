"""Camera images as an H.264 video. No ROS."""

from __future__ import annotations

import queue
import threading
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import cv2
import numpy as np

from openvla_ros.errors import RecordingError
from openvla_ros.images import RGB


class VideoEncoder:
    """Encodes at once, in the caller's thread. A context manager."""

    def __init__(self, path: Path, fps: int) -> None:
        self._fps = fps
        self._container = av.open(str(path), "w")
        self._stream: Any = None

    def __enter__(self) -> VideoEncoder:
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream is not None:
            self._container.mux(self._stream.encode())
        self._container.close()

    def add(self, index: int, image: RGB) -> None:
        """image: (H, W, 3) uint8, shown from ``index`` / fps seconds on; all of one size, cut to an even one."""
        height, width = (n // 2 * 2 for n in image.shape[:2])
        if self._stream is None:
            self._stream = self._container.add_stream("libx264", rate=self._fps, options={"preset": "veryfast"})
            self._stream.height, self._stream.width = height, width
            self._stream.pix_fmt = "yuv420p"
            self._container.start_encoding()  # opens the file: what can't be written is known with the first frame
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]), format="rgb24")
        frame.pts, frame.time_base = index, Fraction(1, self._fps)
        self._container.mux(self._stream.encode(frame))


class VideoWriter:
    """Encodes camera images with a caption in a thread of its own. A context manager.

    ``write`` returns at once; frames that come faster than ``fps`` are left out. Leaving the context raises
    RecordingError if the video could not be written.
    """

    def __init__(self, path: Path, fps: int = 10) -> None:
        self._path = path
        self._fps = fps
        self._first: float | None = None
        self._last_index = -1
        self._frames: queue.SimpleQueue[tuple[int, RGB, list[str]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._encode, name="video", daemon=True)
        self._error: Exception | None = None

    def __enter__(self) -> VideoWriter:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._frames.put(None)
        self._thread.join()
        if self._error is not None and error is None:
            raise RecordingError(f"the video {self._path} can't be written: {self._error}") from self._error

    def write(self, image: RGB, time: float, caption: list[str]) -> None:
        """image: (H, W, 3) uint8 RGB taken at ``time`` [s]; caption: lines of text drawn below it."""
        if self._error is not None:
            return  # nobody takes frames out of the queue any more
        self._first = time if self._first is None else self._first
        index = int((time - self._first) * self._fps)
        if index > self._last_index:
            self._last_index = index
            self._frames.put((index, image, caption))

    def _encode(self) -> None:
        try:
            with VideoEncoder(self._path, self._fps) as encoder:
                while (item := self._frames.get()) is not None:
                    index, image, caption = item
                    encoder.add(index, _captioned(image, caption))
        except Exception as error:  # told to the caller on exit
            self._error = error


def _captioned(image: RGB, caption: list[str]) -> RGB:
    """The image with a dark strip of 72 pixels below it for up to three lines of text."""
    height, width = image.shape[:2]
    picture = np.full((height + 72, width, 3), 24, dtype=np.uint8)
    picture[:height] = image
    for i, line in enumerate(caption[:3]):
        cv2.putText(
            picture, line, (10, height + 22 + 21 * i), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (235, 235, 235), 1, cv2.LINE_AA
        )
    return picture
