"""`openvla-ros demo` as a newcomer runs it, only shorter: what it shows and leaves, and that it ends when told to."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import cv2
import pytest
from graph_harness import node_processes, reserved_domain

from openvla_ros.demo.scenario import INSTRUCTIONS
from openvla_ros.recording.episode import Episode

SECONDS = 6.0  # of each control mode
LIMIT = 180.0  # [s] on a busy machine
MODES = ("non_blocking", "blocking")


@contextmanager
def demo(output: Path, seconds: float) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The command's process and its ROS domain. No process of either survives the context."""
    with reserved_domain() as domain:
        command = [sys.executable, "-m", "openvla_ros.cli.main", "demo", "--domain", str(domain)]
        process = subprocess.Popen(
            [*command, "--seconds", str(seconds), "--output", str(output)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=output,  # from the repository, `-m` would take its sources, which lack the generated messages
            env={**os.environ, "COLUMNS": "160"},
        )
        try:
            yield process, domain
        finally:
            process.kill()
            process.wait()
            for left in node_processes(domain):
                os.kill(left, signal.SIGKILL)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What a whole demo printed, and its folder."""
    output = tmp_path_factory.mktemp("demo")
    with demo(output, SECONDS) as (process, domain):
        printed, _ = process.communicate(timeout=LIMIT)
        assert process.returncode == 0, printed
        assert node_processes(domain) == []
    return printed, output


def test_it_tells_how_both_control_modes_went(done: tuple[str, Path]) -> None:
    printed, output = done
    figures = json.loads((output / "summary.json").read_text())
    for mode in MODES:
        assert figures[mode]["steps"] > 3
        assert figures[mode]["image_to_command_ms"] is not None
        assert sum(figures[mode]["verdicts"].values()) >= figures[mode]["steps"] - 1
    assert figures["blocking"]["outcomes"]["arrived"] > 3
    steps = [figures[mode]["steps"] for mode in MODES]
    assert re.search(rf"steps \(actions\)[^\d]*{steps[0]}[^\d]*{steps[1]}\D", printed)


def test_it_tells_what_the_simulator_judged(done: tuple[str, Path]) -> None:
    """Hazard: a success that somebody declared. Two seconds are too short for any of them."""
    printed, output = done
    trials = json.loads((output / "summary.json").read_text())["trials"]
    assert [(t["mode"], t["instruction"]) for t in trials] == [(m, text) for m in MODES for text in INSTRUCTIONS]
    assert not any(t["success"] for t in trials)
    assert printed.count("not done in ") == len(trials)


def test_a_reset_under_a_pressed_e_stop_is_refused(done: tuple[str, Path]) -> None:
    """Hazard: the demo shows an e-stop that does nothing."""
    assert "reset while the e-stop is pressed: refused" in " ".join(done[0].split())


def test_video_and_plot_show_something(done: tuple[str, Path]) -> None:
    """Hazard: a black video, an empty plot: nobody looks before the visitor does."""
    with av.open(str(done[1] / "video.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) > SECONDS * 10
    assert frames[0][:480].std() > 20
    assert abs(frames[0][:480].astype(float) - frames[-1][:480]).max() > 50, "nothing moved"
    assert cv2.imread(str(done[1] / "poses.png")).std() > 10


def test_each_mode_is_an_episode_with_its_instructions(done: tuple[str, Path]) -> None:
    """Hazard: the next episode's instruction, given while the last motion is still recorded, counts for this one."""
    episodes = [Episode.open(folder) for folder in sorted((done[1] / "episodes").iterdir())]
    assert [e.provenance.control.mode for e in episodes if e.provenance.control] == list(MODES)
    for episode in episodes:
        assert episode.provenance.complete
        assert [said.text for said in episode.provenance.instructions] == list(INSTRUCTIONS)


@pytest.mark.parametrize("moment", ["starting", "in control"])
def test_ctrl_c_leaves_no_process_behind(tmp_path: Path, moment: str) -> None:
    """Hazard: an arm that goes on moving after the terminal was closed; a node that answers the next demo."""
    with demo(tmp_path, 600.0) as (process, domain):
        deadline = time.monotonic() + LIMIT
        while not (
            node_processes(domain)
            if moment == "starting"
            else (tmp_path / "episodes").exists() and any(_bags(tmp_path))
        ):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate(timeout=60)
        assert process.returncode == 130, printed
        assert "Traceback" not in printed
        assert node_processes(domain) == []


def _bags(output: Path) -> Iterator[Path]:
    return (output / "episodes").rglob("*.mcap")
