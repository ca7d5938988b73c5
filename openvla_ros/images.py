"""Camera image buffers to RGB arrays, without a copy where the encoding allows it. No ROS types: fields only."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

RGB = NDArray[np.uint8]  # (H, W, 3)


class ImageError(ValueError):
    """The image can't be turned into RGB: says what was wrong and what is accepted."""


def _converter(code: int) -> Callable[[RGB], RGB]:
    return lambda image: cast(RGB, cv2.cvtColor(image, code))


# How many channels an 8-bit encoding has, and how its (H, W, C) view becomes RGB. rgb8 stays a view of the buffer.
_ENCODINGS: dict[str, tuple[int, Callable[[RGB], RGB]]] = {
    "rgb8": (3, lambda image: image),
    "bgr8": (3, _converter(cv2.COLOR_BGR2RGB)),
    "rgba8": (4, _converter(cv2.COLOR_RGBA2RGB)),
    "bgra8": (4, _converter(cv2.COLOR_BGRA2RGB)),
    "mono8": (1, _converter(cv2.COLOR_GRAY2RGB)),
}
ENCODINGS = tuple(_ENCODINGS)


def fingerprint(data: bytes | memoryview) -> int:
    """The same number for the same buffer, and another for any picture that a real sensor takes after it.

    Of a large buffer every 61st byte counts: a prime, so that every channel and column has its turn.
    """
    buffer = np.frombuffer(data, dtype=np.uint8)
    return zlib.crc32((buffer if buffer.size < 2**16 else buffer[::61]).tobytes())


def check_raw(encoding: str, height: int, width: int, step: int, size: int) -> int:
    """How many channels a sensor_msgs/Image with a buffer of ``size`` bytes has; ``step``: bytes in one row.

    Raises ImageError for an unknown encoding, an empty image or a buffer of another size than height * step.
    """
    if encoding not in _ENCODINGS:
        raise ImageError(f"image encoding '{encoding}' is not one of {', '.join(ENCODINGS)}")
    channels, _ = _ENCODINGS[encoding]
    if height <= 0 or width <= 0:
        raise ImageError(f"the image is empty: {width} x {height} pixels")
    if step < width * channels or size != height * step:
        raise ImageError(
            f"image buffer of {size} bytes does not fit {width} x {height} {encoding} with {step} bytes a row "
            f"(a row needs at least {width * channels}, the buffer exactly height * step = {height * step})"
        )
    return channels


def decode_raw(encoding: str, height: int, width: int, step: int, data: bytes | memoryview) -> RGB:
    """A sensor_msgs/Image buffer as (H, W, 3) uint8 RGB.

    step: bytes in one row, row padding included. For rgb8 the result is a view of ``data``.
    Raises ImageError, as ``check_raw`` does.
    """
    buffer = np.frombuffer(data, dtype=np.uint8)
    channels = check_raw(encoding, height, width, step, buffer.size)
    _, to_rgb = _ENCODINGS[encoding]
    rows = buffer.reshape(height, step)[:, : width * channels]
    return to_rgb(rows.reshape(height, width, channels) if step == width * channels else _unpad(rows, width, channels))


def _unpad(rows: NDArray[np.uint8], width: int, channels: int) -> RGB:
    """(H, W, C) view of padded rows: the padding is skipped by the stride, not by a copy."""
    height = rows.shape[0]
    strides = (rows.strides[0], channels, 1)
    return np.lib.stride_tricks.as_strided(rows, (height, width, channels), strides, writeable=False)


def decode_compressed(data: bytes | memoryview) -> RGB:
    """A sensor_msgs/CompressedImage payload (JPEG, PNG) as (H, W, 3) uint8 RGB. Raises ImageError if it is damaged."""
    buffer = np.frombuffer(data, dtype=np.uint8)
    image = cv2.imdecode(buffer, cv2.IMREAD_COLOR) if _is_whole(bytes(data)) else None
    if image is None:
        raise ImageError(f"compressed image of {buffer.size} bytes is damaged or of another kind: send JPEG or PNG")
    return cast(RGB, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


def _is_whole(data: bytes) -> bool:
    """False for no data and for a JPEG without end: OpenCV 4 fills the missing part with grey."""
    if not data.startswith(b"\xff\xd8"):
        return bool(data)
    # Neither marker, start of a scan and end of image, can stand in the data of a scan.
    return data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")
