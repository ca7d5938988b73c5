"""The demo's video, read back."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from openvla_ros.errors import RecordingError
from openvla_ros.recording.video import VideoWriter

STRIP = 72  # pixels below the image for the caption


def picture(value: int, height: int = 48, width: int = 64) -> Any:
    return np.full((height, width, 3), value, np.uint8)


def read(path: Path) -> tuple[list[float], list[Any]]:
    """(times [s], frames (H, W, 3))."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return [f.time for f in frames], [f.to_ndarray(format="rgb24") for f in frames]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "video.mp4"


def test_frames_are_shown_at_their_times(path: Path) -> None:
    """From their stamps, not from their number: a camera that paused is seen to pause."""
    with VideoWriter(path, fps=10) as video:
        for time, value in [(1000.0, 40), (1000.1, 120), (1000.5, 200)]:
            video.write(picture(value), time, [])
    times, frames = read(path)
    assert times == pytest.approx([0.0, 0.1, 0.5])
    assert [f[:48].mean() for f in frames] == pytest.approx([40, 120, 200], abs=6)


def test_faster_frames_are_left_out(path: Path) -> None:
    with VideoWriter(path, fps=10) as video:
        for i in range(60):  # two seconds at 30 Hz
            video.write(picture(i), 1.7e9 + i / 30 + 1e-4, [])
    times, _ = read(path)
    assert times == pytest.approx(np.arange(20) / 10)


def test_old_frames_are_left_out(path: Path) -> None:
    with VideoWriter(path) as video:
        for time in (10.0, 11.0, 10.5, 11.0, 9.0):
            video.write(picture(0), time, [])
    assert read(path)[0] == pytest.approx([0.0, 1.0])


def test_the_caption_stands_below_the_image(path: Path) -> None:
    """The image itself stays whole: what the policy saw is not written over."""
    with VideoWriter(path) as video:
        video.write(picture(200, 120, 320), 0.0, ["lift the red block", "blocking control", "", "a fourth line"])
    (frame,) = read(path)[1]
    assert frame.shape == (120 + STRIP, 320, 3)
    assert np.abs(frame[:118].astype(int) - 200).max() < 12
    strip = frame[120:].mean(axis=-1)
    assert np.median(strip) < 45
    first, second, third = (strip[i * 21 + 6 : i * 21 + 26].max() for i in range(3))
    assert first > 180
    assert second > 180
    assert third < 120  # an empty line, and no fourth one


@pytest.mark.parametrize(("height", "width"), [(49, 64), (48, 65), (49, 65)])
def test_odd_sizes_lose_a_line_at_most(path: Path, height: int, width: int) -> None:
    """H.264 takes even sizes only; a camera of 641 x 481 pixels must not end the demo."""
    with VideoWriter(path) as video:
        video.write(picture(100, height, width), 0.0, ["text"])
    (frame,) = read(path)[1]
    assert frame.shape == ((height + STRIP) // 2 * 2, width // 2 * 2, 3)


def test_a_path_that_cannot_be_written_is_an_error_at_the_end(tmp_path: Path) -> None:
    """Hazard: it is only noticed that nothing was filmed when somebody wants to see it; or every frame until then is
    kept in memory."""

    def film() -> None:
        with VideoWriter(tmp_path / "none" / "video.mp4") as video:
            video.write(picture(0), 0.0, [])
            video._thread.join(10)
            for i in range(1, 100):
                video.write(picture(0), float(i), [])
            assert video._frames.qsize() == 0

    with pytest.raises(RecordingError, match=r"none/video\.mp4 can't be written"):
        film()
    assert "video" not in {t.name for t in threading.enumerate()}


def test_an_error_inside_is_not_hidden_by_the_videos(tmp_path: Path) -> None:
    def fail() -> None:
        with VideoWriter(tmp_path / "none" / "video.mp4") as video:
            video.write(picture(0), 0.0, [])
            raise KeyError("the cause")

    with pytest.raises(KeyError, match="the cause"):
        fail()


def test_without_a_frame_there_is_no_video_and_no_error(path: Path) -> None:
    with VideoWriter(path):
        pass
    assert not path.exists()
