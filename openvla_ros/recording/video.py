"""Writes camera images with a caption as an H.264 video, in a thread of its own. No ROS."""

from __future__ import annotations

import queue
import threading
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import cv2
import numpy as np

from openvla_ros.images import RGB


class VideoWriter:
    """A context manager. ``write`` returns at once; frames that come faster than ``fps`` are left out."""

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
            raise self._error

    def write(self, image: RGB, time: float, caption: list[str]) -> None:
        """image: (H, W, 3) uint8 RGB taken at ``time`` [s]; caption: lines of text drawn below it."""
        self._first = time if self._first is None else self._first
        index = int((time - self._first) * self._fps)
        if index > self._last_index:
            self._last_index = index
            self._frames.put((index, image, caption))

    def _encode(self) -> None:
        try:
            with av.open(str(self._path), "w") as container:
                stream = None
                while (item := self._frames.get()) is not None:
                    index, image, caption = item
                    picture = _captioned(image, caption)
                    if stream is None:
                        stream = container.add_stream("libx264", rate=self._fps, options={"preset": "veryfast"})
                        stream.height, stream.width = picture.shape[:2]
                        stream.pix_fmt = "yuv420p"
                    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                    frame.pts, frame.time_base = index, Fraction(1, self._fps)
                    container.mux(stream.encode(frame))
                if stream is not None:
                    container.mux(stream.encode())
        except Exception as error:  # told to the caller on exit; frames that still come are drained there
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
