"""One HTML page of an episode: video with instruction and reasons, actions, poses, latencies. Opens without network."""

from __future__ import annotations

import base64
import json
import math
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from openvla_ros.errors import RecordingError
from openvla_ros.images import ImageError
from openvla_ros.messages import rgb
from openvla_ros.paths import resource_file
from openvla_ros.recording.episode import Episode
from openvla_ros.recording.measure import header_stamp
from openvla_ros.recording.trace import HOPS, Sample, Trace, TraceStep
from openvla_ros.recording.video import VideoEncoder
from openvla_ros.types import Array, Pose

EMBED_BYTES = 24_000_000  # videos that are larger together lie beside the page
MAX_POINTS = 3000  # of a curve: more than a screen has pixels
MAX_FPS = 15


def write_page(episode: Episode, page: Path) -> Path:
    """Write ``page`` (.html), and the videos beside it where they are too large to be inside. Raises RecordingError."""
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        zero = _zero(episode)
        videos = [_video(episode, topic, zero, page, i) for i, topic in enumerate(episode.cameras)]
        sources = _embed([v for v in videos if v is not None])
        data = page_data(episode, zero) | {"videos": sources}
        text = resource_file("episode.html").read_text()
        text = text.replace("__TITLE__", escape(episode.provenance.episode_id))
        # No text inside a string may look like a tag: "</script>" would end the script.
        text = text.replace("__DATA__", json.dumps(_finite(data)).replace("<", "\\u003c"))
        page.write_text(text)
    except OSError as error:
        raise RecordingError(f"the page {page} can't be written: {error.strerror or error}") from None
    return page


def page_data(episode: Episode, zero: float) -> dict[str, Any]:
    """What the page draws. Times are seconds since ``zero``; translations mm, rotations degrees."""
    trace = episode.trace
    about = episode.provenance
    if not about.complete:  # nobody came to measure it
        about = episode.measurements.added_to(about)
    steps = sorted((s for s in trace.steps.values() if s.raw is not None), key=lambda s: s.sequence)
    return {
        "about": json.loads(about.model_dump_json()),
        "hop_names": [name for name, _, _ in HOPS],
        "steps": [_step(s, zero) for s in steps],
        "path": _path(trace, zero),
        "instructions": [[i.time - zero, i.text] for i in episode.measurements.instructions],
        "events": [[i.time - zero, i.kind, i.detail] for i in episode.measurements.interventions],
    }


def _zero(episode: Episode) -> float:
    """The time that the page counts from: the first message."""
    first = next(iter(episode.bag.records()), None)
    if first is None:
        raise RecordingError(f"{episode.folder} holds no message")
    return first.log_time / 1e9


def _step(step: TraceStep, zero: float) -> dict[str, Any]:
    hops = [step.span(start, end) for _, start, end in HOPS]
    return {
        "t": step.stamps["inference_ended"] - zero,
        "image": step.stamps["image"] - zero,
        "sequence": step.sequence,
        "raw": None if step.raw is None else _displayed(step.raw.to_array()),
        "filtered": None if step.filtered is None else _displayed(step.filtered.to_array()),
        "verdict": step.verdict or "no verdict",
        "reasons": [[r.rule, r.detail] for r in step.reasons],
        "outcome": step.outcome,
        "hops": [None if h is None else round(h * 1e3, 3) for h in hops],
    }


def _displayed(action: Array) -> list[float]:
    return [*np.round(action[:3] * 1e3, 3).tolist(), *np.round(np.rad2deg(action[3:6]), 3).tolist(), float(action[6])]


def _path(trace: Trace, zero: float) -> dict[str, Any]:
    samples = trace.samples[:: max(1, math.ceil(len(trace.samples) / MAX_POINTS))]
    if not samples:
        return {"t": [], "measured": [], "commanded": []}
    first = samples[0].measured
    return {
        "t": [round(s.time - zero, 4) for s in samples],
        "measured": [[*_coordinates(first, s.measured), s.gripper] for s in samples],
        "commanded": [_commanded(first, s) for s in samples],
    }


def _commanded(first: Pose, sample: Sample) -> list[float] | None:
    return None if sample.commanded is None else [*_coordinates(first, sample.commanded), sample.commanded_gripper]


def _coordinates(first: Pose, pose: Pose) -> list[float]:
    """x, y, z [mm]; the rotation vector from the first measured pose [deg], free of the wrap of roll, pitch, yaw."""
    rotation = first.motion_to(pose)[1]
    return [*np.round(pose.position * 1e3, 2).tolist(), *np.round(np.rad2deg(rotation), 2).tolist()]


def _video(episode: Episode, topic: str, zero: float, page: Path, index: int) -> tuple[str, Path, float] | None:
    """(topic, file, time of its first frame) of a camera's images; None without a usable one."""
    stamps = [header_stamp(r.data) for r in episode.bag.records([topic])]
    if not stamps:
        return None
    seconds = max(stamps) - stamps[0]
    fps = MAX_FPS if seconds <= 0 else min(MAX_FPS, max(1, round(len(stamps) / seconds)))
    path = page.with_name(f"{page.stem}-{index}.mp4")
    last = -1
    with VideoEncoder(path, fps) as encoder:
        for record in episode.bag.records([topic]):
            at = int((header_stamp(record.data) - stamps[0]) * fps)
            if at > last:
                try:
                    encoder.add(at, rgb(episode.decode(record.data, record.typename)))
                    last = at
                except ImageError:
                    continue  # a depth image, or a damaged one: the page shows what can be shown
    if last < 0:
        path.unlink()
        return None
    return topic, path, stamps[0] - zero


def _embed(videos: list[tuple[str, Path, float]]) -> list[dict[str, Any]]:
    inside = sum(path.stat().st_size for _, path, _ in videos) <= EMBED_BYTES
    sources = []
    for topic, path, begin in videos:
        source = path.name
        if inside:
            source = f"data:video/mp4;base64,{base64.b64encode(path.read_bytes()).decode()}"
            path.unlink()
        sources.append({"topic": topic, "begin": begin, "source": source})
    return sources


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: null stands for both."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, list | tuple) else value
