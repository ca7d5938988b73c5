"""The page of an episode, in a real browser, and the verbs around it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from episodes import write_episode

from openvla_ros.cli.main import main
from openvla_ros.recording import page
from openvla_ros.recording.episode import Episode
from openvla_ros.recording.page import page_data, write_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("episodes")
    write_episode(root, "first", steps=12, refused=(4,))
    write_episode(root, "second", steps=3)
    return root


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
@pytest.mark.timeout(120)
def test_page_in_a_browser(root: Path, tmp_path: Path) -> None:
    """Hazard: a page that is written but stays empty: a script error, a video codec that no browser plays."""
    written = write_page(Episode.open(root / "first"), tmp_path / "page.html")
    assert [f.name for f in tmp_path.iterdir()] == ["page.html"]  # the video is inside
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--timeout=10000", "--virtual-time-budget=20000"]
    done = subprocess.run([*command, "--dump-dom", written.as_uri()], capture_output=True, text=True, timeout=100)
    dom = done.stdout
    assert 'data-drawn="15"' in dom, done.stderr  # 7 axes of actions, 7 of poses, latencies: the script ran to its end
    assert 'data-video="64x48"' in dom
    assert dom.count("<canvas") == 15
    overlay = re.search(r'class="overlay">(.*?)</div></div>', dom) or re.search(r'class="overlay">(.*?)</div>', dom)
    assert overlay is not None
    assert "lift the red block" in overlay.group(1)
    assert "11 accepted, 1 refused" in dom


def test_what_the_page_draws(root: Path) -> None:
    """Hazard: curves in other units than their axis says, or a refused action drawn as passed on."""
    episode = Episode.open(root / "first")
    data = page_data(episode, zero=1000.0)
    step = data["steps"][4]
    assert step["raw"] == pytest.approx([4.0, 0.0, -2.0, 0.0, 0.573, 0.0, 0.0])
    assert step["filtered"] is None
    assert step["reasons"] == [["workspace", "z below the table"]]
    assert step["image"] == pytest.approx(0.9)
    assert step["hops"][2] == pytest.approx(30.0)
    assert data["path"]["measured"][0][:3] == pytest.approx([200.9, 0.0, 100.0])
    assert data["path"]["commanded"][0] is None
    assert data["path"]["commanded"][1][6] == 0.0


def test_nothing_from_the_network_and_nothing_injected(root: Path, tmp_path: Path) -> None:
    """Hazard: a page that needs the internet in a lab without, or an instruction that ends its script."""
    folder = shutil.copytree(root / "second", tmp_path / "second")
    about = json.loads((folder / "episode.json").read_text())
    about["failure_detail"] = "</script><script>alert(1)</script>"
    (folder / "episode.json").write_text(json.dumps(about))
    text = write_page(Episode.open(folder), folder / "page.html").read_text()
    assert "<script>alert" not in text
    assert not re.search(r"(src|href)\s*=\s*[\"']?https?:", text)
    assert "NaN" not in text.split("const data = ")[1].split("\n")[0]


def test_large_videos_lie_beside(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hazard: a page of gigabytes that no browser opens."""
    monkeypatch.setattr(page, "EMBED_BYTES", 10)
    written = write_page(Episode.open(root / "second"), tmp_path / "page.html")
    assert (tmp_path / "page-0.mp4").stat().st_size > 100
    assert '"source": "page-0.mp4"' in written.read_text()


def listed(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[str]:
    assert main(["episodes", "--json", *map(str, arguments)]) == 0
    return [json.loads(line)["episode_id"] for line in capsys.readouterr().out.splitlines()]


def test_listing_filters_and_judging(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Hazard: a success rate over the wrong episodes."""
    folder = shutil.copytree(root, tmp_path / "all")
    assert listed(capsys, folder) == ["first", "second"]
    assert main(["judge", str(folder / "first"), "failure", "--reason", "bad_grasp", "--score", "0.25"]) == 0
    assert main(["judge", str(folder / "second"), "success"]) == 0
    assert listed(capsys, folder, "--outcome", "success") == ["second"]
    assert listed(capsys, folder, "--failure", "bad_grasp") == ["first"]
    assert listed(capsys, folder, "--outcome", "unknown") == []
    assert listed(capsys, folder, "--mode", "blocking", "--instruction", "RED", "--checkpoint", "tiny") == [
        "first",
        "second",
    ]
    assert listed(capsys, folder, "--robot", "panda") == []
    assert main(["judge", str(folder / "second"), "success", "--reason", "other"]) == 2
    assert "a success has no failure_reason" in capsys.readouterr().err
    assert main(["episodes", str(folder)]) == 0
    assert "0.25" in capsys.readouterr().out


def test_cut_off_episodes_are_listed_and_recovered(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Hazard: an episode that was cut off counts as a whole one, or not at all."""
    folder = shutil.copytree(root / "first", tmp_path / "first")
    bag = folder / "first_0.mcap"
    bag.write_bytes(bag.read_bytes()[:-500])
    about = json.loads((folder / "episode.json").read_text())
    (folder / "episode.json").write_text(json.dumps(about | {"complete": False, "measured": {}, "topics": {}}))
    assert listed(capsys, tmp_path, "--cut-off") == ["first"]
    assert main(["episodes", str(tmp_path), "--recover"]) == 0
    assert "recovered" in capsys.readouterr().out
    assert listed(capsys, tmp_path, "--cut-off") == []
    assert Episode.open(folder).provenance.measured.actions == 12


def test_show_prints_and_writes(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Hazard: a summary that says less than the messages, or errors as tracebacks."""
    assert main(["show", str(root / "first"), "--output", str(tmp_path / "p.html")]) == 0
    printed = capsys.readouterr().out
    for text in ("lift the red block", "11 accepted, 1 refused", "inference", "/arm_state"):
        assert text in printed
    assert (tmp_path / "p.html").exists()
    assert main(["show", "nowhere"]) == 2
    assert "there is no episode nowhere" in capsys.readouterr().err
