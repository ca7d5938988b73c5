"""Recompressing camera images on their way into a bag."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from openvla_ros.images import RGB, ImageError, decode_raw
from openvla_ros.recording.definitions import typestore

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"


def compressed_topic(topic: str) -> str:
    """Where image_transport, and so every ROS tool, looks for the compressed images of a camera."""
    return f"{topic}/compressed"


def compressed_image(header: Any, rgb: RGB, quality: int) -> Any:
    """A CompressedImage message: JPEG of (H, W, 3) uint8. quality: 1..100."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ImageError(f"an image of shape {rgb.shape} could not be compressed")
    return typestore().types[COMPRESSED](header=header, format="rgb8; jpeg compressed bgr8", data=np.ravel(data))


def compress(data: bytes, quality: int) -> bytes:
    """A serialized Image as a serialized CompressedImage. Raises ImageError for an encoding that has no colours."""
    store = typestore()
    image: Any = store.deserialize_cdr(data, IMAGE)
    rgb = decode_raw(image.encoding, image.height, image.width, image.step, memoryview(image.data))
    return bytes(store.serialize_cdr(compressed_image(image.header, rgb, quality), COMPRESSED))
