"""Camera buffers to RGB, against numpy's own indexing and Pillow's codecs."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from openvla_ros.images import ENCODINGS, ImageError, decode_compressed, decode_raw, fingerprint

CHANNELS = {"rgb8": "RGB", "bgr8": "BGR", "rgba8": "RGBA", "bgra8": "BGRA", "mono8": "G"}


def scene(height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """(H, W, 3) RGB, smooth, so that JPEG keeps it; every channel different."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 3 % 256, y * 4 % 256, (x + y) % 256], axis=-1).astype(np.uint8)


def encoded(rgb: NDArray[np.uint8], kind: str, **options: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("size", [100, 64 * 48 * 3, 640 * 480 * 3])
def test_a_sensors_noise_changes_the_fingerprint(size: int) -> None:
    """Hazard: a still scene before a working camera that is taken for a frozen one: here every 50th byte is one off."""
    generator = np.random.default_rng(0)
    still = generator.integers(1, 255, size, dtype=np.uint8)
    noisy = still + (generator.random(size) < 0.02).astype(np.uint8)
    assert fingerprint(memoryview(still)) == fingerprint(still.tobytes())
    assert fingerprint(memoryview(noisy)) != fingerprint(memoryview(still))


def test_every_encoding_is_tested() -> None:
    assert set(ENCODINGS) == set(CHANNELS)


@given(
    encoding=st.sampled_from(ENCODINGS),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    padding=st.integers(0, 5),
    seed=st.integers(0, 2**32 - 1),
    readonly=st.booleans(),
)
def test_channels_and_rows_come_out_right(
    encoding: str, height: int, width: int, padding: int, seed: int, readonly: bool
) -> None:
    """Hazard: swapped red and blue, or rows that slide because the padding at their end was taken for pixels. The
    model gets a plausible picture and acts on it."""
    channels = CHANNELS[encoding]
    rows = np.random.default_rng(seed).integers(0, 256, (height, width * len(channels) + padding), dtype=np.uint8)
    data = rows.tobytes() if readonly else memoryview(bytearray(rows.tobytes()))
    decoded = decode_raw(encoding, height, width, rows.shape[1], data)
    expected = np.empty((height, width, 3), np.uint8)
    for i, colour in enumerate("RGB"):
        offset = 0 if encoding == "mono8" else channels.index(colour)
        expected[..., i] = rows[:, : width * len(channels)][:, offset :: len(channels)]
    np.testing.assert_array_equal(decoded, expected)
    assert decoded.dtype == np.uint8


@pytest.mark.parametrize("padding", [0, 16])
def test_rgb8_is_not_copied(padding: int) -> None:
    """A megabyte copied 30 times a second is latency that nobody sees."""
    step = 64 * 3 + padding
    buffer = bytearray(np.arange(48 * step, dtype=np.uint32).astype(np.uint8).tobytes())
    decoded = decode_raw("rgb8", 48, 64, step, memoryview(buffer))
    assert np.shares_memory(decoded, np.frombuffer(buffer, np.uint8))
    assert not (padding and decoded.flags.writeable)


@pytest.mark.parametrize("size", [0, 48 * 64 * 3 - 1, 48 * 64 * 3 + 1, 64 * 3])
def test_a_buffer_of_another_size_is_an_error(size: int) -> None:
    """Hazard: a truncated message read as an image, its rest black or from other memory."""
    with pytest.raises(ImageError, match=f"buffer of {size} bytes does not fit 64 x 48 rgb8 with 192 bytes a row"):
        decode_raw("rgb8", 48, 64, 192, bytes(size))


def test_a_step_below_the_width_is_an_error() -> None:
    with pytest.raises(ImageError, match="a row needs at least 192"):
        decode_raw("rgb8", 48, 64, 191, bytes(48 * 191))


@pytest.mark.parametrize(("height", "width"), [(0, 64), (48, 0), (0, 0)])
def test_an_empty_image_is_an_error(height: int, width: int) -> None:
    """Hazard: a camera that publishes before its first frame."""
    with pytest.raises(ImageError, match=f"empty: {width} x {height} pixels"):
        decode_raw("rgb8", height, width, width * 3, b"")


def test_an_unknown_encoding_names_the_known_ones() -> None:
    with pytest.raises(ImageError, match="'16UC1' is not one of rgb8, bgr8, rgba8, bgra8, mono8"):
        decode_raw("16UC1", 1, 1, 2, bytes(2))


def test_png_comes_back_exactly_and_jpeg_nearly() -> None:
    """Hazard: OpenCV decodes to BGR; an image with red and blue swapped still looks like an image."""
    rgb = scene()
    np.testing.assert_array_equal(decode_compressed(encoded(rgb, "PNG")), rgb)
    decoded = decode_compressed(memoryview(encoded(rgb, "JPEG", quality=95, subsampling=0)))
    assert np.abs(decoded.astype(int) - rgb).mean() < 3


def test_grey_and_transparent_pngs_become_rgb() -> None:
    grey = scene()[..., 0]
    np.testing.assert_array_equal(decode_compressed(encoded(grey, "PNG")), np.stack([grey] * 3, axis=-1))
    rgba = np.dstack([scene(), np.full((48, 64), 128, np.uint8)])
    np.testing.assert_array_equal(decode_compressed(encoded(rgba, "PNG")), scene())


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_an_error(kind: str, kept: float) -> None:
    """Hazard: libjpeg fills what is missing with grey and only warns: the policy acts on half an image."""
    data = encoded(scene(240, 320), kind)
    with pytest.raises(ImageError, match="send JPEG or PNG"):
        decode_compressed(data[: int(len(data) * kept)])


def test_bytes_behind_the_end_of_a_jpeg_do_no_harm() -> None:
    """Cameras pad their buffers."""
    data = encoded(scene(), "JPEG")
    np.testing.assert_array_equal(decode_compressed(data + bytes(64)), decode_compressed(data))


def test_noise_is_an_error() -> None:
    with pytest.raises(ImageError, match="of 1000 bytes"):
        decode_compressed(np.random.default_rng(0).bytes(1000))
