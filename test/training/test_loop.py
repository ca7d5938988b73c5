"""Trainings of a few seconds: they learn, they end in a checkpoint that runs, and a kill changes nothing."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from openvla_ros.cli.main import main
from openvla_ros.errors import CheckpointError, ConfigError, TrainingError
from openvla_ros.policy.openvla.engine import Engine
from openvla_ros.policy.openvla.loading import SINGLE
from openvla_ros.policy.registry import load_policy
from openvla_ros.training import job, loop
from openvla_ros.training.frames import Frames, read_frames
from openvla_ros.training.journal import CSV, PLOT
from openvla_ros.training.loop import train
from openvla_ros.training.settings import TrainSettings

Make = Callable[..., TrainSettings]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / SINGLE)


def rows(settings: TrainSettings, split: str = "train") -> list[dict[str, str]]:
    with (settings.output / CSV).open() as file:
        return [row for row in csv.DictReader(file) if row["split"] == split]


def differing(first: Path, second: Path) -> set[str]:
    a, b = weights(first), weights(second)
    assert a.keys() == b.keys()
    return {name for name, tensor in a.items() if not torch.equal(tensor, b[name])}


def pick(frames: Frames, at: list[int]) -> Frames:
    columns = {name: getattr(frames, name)[at] for name in ("images", "actions", "proprio", "instruction", "episode")}
    return replace(frames, **columns)


def test_the_policy_does_what_it_was_shown(settings: Make, tiny: Path, tmp_path: Path, watcher) -> None:
    """The demo checkpoint learns four frames by heart; loaded as a policy, it answers with the expert's tokens."""
    mine = settings(
        model=str(tiny),
        steps=36,
        batch_size=4,
        learning_rate=3e-3,
        augmentation=None,
        log_every=10,
        checkpoint_every=36,
    )
    resized = Engine(tiny, precision="float32").processor.image.resized
    everything = read_frames(mine.model_copy(update={"cache": tmp_path / "cache"}), resized)
    chosen = [0, len(everything) // 3, len(everything) // 2, len(everything) - 1]
    four = pick(everything, chosen)
    folder = train(mine, watcher, four)
    losses = [float(row["loss"]) for row in rows(mine)]
    assert losses[-1] < 0.1 * losses[0]
    policy = load_policy(str(folder), precision="float32", device="cpu")
    policy.warm_up()
    prepared = loop.prepare(mine, four)
    for i in range(4):
        prediction = policy.predict(four.images[i], four.instructions[four.instruction[i]])
        assert prediction.token_ids.tolist() == prepared.examples.targets[i, :7].tolist()
        allowed = (prepared.statistics.q99 - prepared.statistics.q01) / 255
        inside = np.clip(four.actions[i], prepared.statistics.q01, prepared.statistics.q99)
        assert np.all(np.abs(prediction.action.to_array() - inside)[:6] <= allowed[:6] + 1e-6)


def test_the_loss_falls_and_everything_is_written(settings: Make, watcher) -> None:
    mine = settings(
        steps=40,
        batch_size=8,
        learning_rate=5e-3,
        held_out_share=0.3,
        evaluate_every=20,
        checkpoint_every=20,
        log_every=10,
    )
    folder = train(mine, watcher)
    losses = [float(row["loss"]) for row in rows(mine)]
    assert losses[-1] < 0.8 * losses[0]
    assert [row["step"] for row in rows(mine)] == ["10", "20", "30", "40"]
    assert all(float(row["samples_per_s"]) > 0 and 0 <= float(row["accuracy_gripper"]) <= 1 for row in rows(mine))
    assert [row["step"] for row in rows(mine, "held_out")] == ["20", "40"]
    assert float(rows(mine, "held_out")[-1]["loss"]) < 0.9 * np.log(704)  # of a guess, for that vocabulary
    assert (mine.output / PLOT).read_bytes().startswith(b"\x89PNG")
    assert [f.name for f in watcher.folders] == ["step-000020", "step-000040"]
    assert folder == mine.output / "step-000040"
    assert json.loads((folder / "preprocessor_config.json").read_text())["center_crop"] == 0.9


def test_info_and_verify_open_it(settings: Make, watcher, capsys) -> None:
    folder = train(settings(steps=1, save_dtype="bf16"), watcher)
    assert main(["info", str(folder), "--device", "cpu"]) == 0
    assert "base frame" in capsys.readouterr().out
    assert {t.dtype for t in weights(folder).values()} == {torch.bfloat16}


def test_frozen_vision_stays_bit_for_bit(settings: Make, small: Path, watcher) -> None:
    folder = train(settings(freeze_vision=True, steps=3), watcher)
    changed = differing(folder, small)
    assert "projector.fc1.weight" in changed
    assert not [name for name in changed if name.startswith("vision_backbone")]


def test_lora_ends_in_a_plain_checkpoint(settings: Make, small: Path, watcher) -> None:
    mine = settings(lora={"rank": 4}, steps=20, learning_rate=5e-3, log_every=5, checkpoint_every=10)
    folder = train(mine, watcher)
    changed = differing(folder, small)
    assert "language_model.model.layers.0.self_attn.q_proj.weight" in changed
    assert "language_model.model.embed_tokens.weight" not in changed
    assert not [name for name in changed if "norm" in name or name.endswith("bias")]
    assert float(rows(mine)[-1]["loss"]) < float(rows(mine)[0]["loss"])
    load_policy(str(folder), device="cpu").warm_up()


@pytest.mark.parametrize("lora", [None, {"rank": 4}])
def test_passes_in_bf16_train_float32_weights(settings: Make, small: Path, watcher, lora) -> None:
    """As on a GPU. Steps of a thousandth of a weight are lost in weights that are bf16 themselves."""
    mine = settings(precision="bf16", lora=lora, steps=6, learning_rate=1e-4, freeze_vision=True)
    folder = train(mine, watcher)
    before, after = weights(small), weights(folder)
    key = "language_model.model.layers.0.mlp.down_proj.weight"
    assert torch.all(before[key] != after[key]) or lora
    state = load_file(mine.output / "state" / "6" / "weights.safetensors")
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}


def test_accumulated_passes_are_one_large_one(settings: Make, tmp_path: Path, watcher) -> None:
    large = train(settings(batch_size=4, accumulation=1, output=tmp_path / "large"), watcher)
    small_ = train(settings(batch_size=1, accumulation=4, output=tmp_path / "small"), watcher)
    a, b = weights(large), weights(small_)
    for name, tensor in a.items():
        assert torch.allclose(tensor, b[name], atol=1e-4), name


def test_a_kill_changes_nothing(settings: Make, tmp_path: Path, watcher) -> None:
    """SIGKILL some steps behind a checkpoint; the same command goes on from there, to the same bits."""
    mine = settings(steps=24, warmup_steps=3, schedule="cosine", checkpoint_every=4, threads=1)
    file = tmp_path / "train.json"  # JSON is YAML
    file.write_text(mine.model_dump_json())
    command = [sys.executable, "-m", "openvla_ros.cli.main", "train", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = next((line for line in process.stdout if "saved step-000008" in line), None)
        process.send_signal(signal.SIGKILL)
    assert line is not None
    assert process.returncode == -signal.SIGKILL
    saved = int(next((mine.output / "state").glob("[0-9]*")).name)
    assert 8 <= saved < 24
    resumed = train(mine, watcher)
    assert watcher.began == [saved]
    whole = mine.model_copy(update={"output": tmp_path / "whole"})
    assert differing(resumed, train(whole, watcher)) == set()
    timing = ("samples_per_s",)
    strip = [{k: v for k, v in row.items() if k not in timing} for row in rows(mine)]
    assert strip == [{k: v for k, v in row.items() if k not in timing} for row in rows(whole)]


def test_two_processes_train_like_one(settings: Make, tmp_path: Path, watcher) -> None:
    """Each on its part of a step's examples, on CPUs as it would be on GPUs; only one of them writes and speaks."""
    both = settings(batch_size=1, accumulation=2, steps=2, threads=1, output=tmp_path / "both")
    file = tmp_path / "train.json"
    file.write_text(both.model_dump_json())
    command = ["-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "openvla_ros.cli.main", "train", str(file)]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("checkpoint: ") == 1
    train(settings(batch_size=4, steps=2, output=tmp_path / "one"), watcher)
    a, b = (weights(tmp_path / name / "step-000002") for name in ("one", "both"))
    for name, tensor in a.items():
        assert torch.allclose(tensor, b[name], atol=1e-5), name


def test_adapters_and_their_dropout_go_on_as_if_nothing_had_been(settings: Make, tmp_path: Path, watcher) -> None:
    common = {"lora": {"rank": 4, "dropout": 0.2}, "learning_rate": 5e-3, "checkpoint_every": 2}
    train(settings(**common, steps=2), watcher)
    resumed = train(settings(**common, steps=4), watcher)
    assert watcher.began == [0, 2]
    assert differing(resumed, train(settings(**common, steps=4, output=tmp_path / "whole"), watcher)) == set()


def test_a_finished_training_has_nothing_left_to_do(settings: Make, watcher) -> None:
    folder = train(settings(), watcher)
    before = (folder / SINGLE).stat().st_mtime_ns
    assert train(settings(), watcher) == folder
    assert (folder / SINGLE).stat().st_mtime_ns == before
    longer = train(settings(steps=8), watcher)  # more steps may be added at a constant rate
    assert longer.name == "step-000008"
    assert watcher.began == [0, 6, 6]


def test_only_the_newest_checkpoints_are_kept(settings: Make, watcher) -> None:
    mine = settings(steps=6, checkpoint_every=1, keep_checkpoints=2)
    train(mine, watcher)
    assert sorted(f.name for f in mine.output.glob("step-*")) == ["step-000005", "step-000006"]
    assert [f.name for f in (mine.output / "state").iterdir()] == ["6"]


def test_another_training_is_not_continued(settings: Make, tmp_path: Path, watcher) -> None:
    train(settings(steps=1), watcher)
    with pytest.raises(ConfigError, match="batch_size was 4, not 2"):
        train(settings(steps=1, batch_size=2), watcher)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a").touch()
    with pytest.raises(ConfigError, match="something else"):
        train(settings(output=tmp_path / "letters"), watcher)


def test_a_damaged_state_is_said(settings: Make, watcher) -> None:
    mine = settings(steps=3)
    train(mine, watcher)
    (mine.output / "state" / "3" / "optimizer.pt").write_bytes(b"no zip")
    with pytest.raises(TrainingError, match=r"remove .*state to begin again"):
        train(settings(steps=4), watcher)


def test_a_loss_that_is_not_finite_ends_it_with_the_last_checkpoint_whole(settings: Make, watcher) -> None:
    mine = settings(steps=50, learning_rate=1e30, log_every=1, checkpoint_every=1)
    with pytest.raises(TrainingError, match="not finite at step"):
        train(mine, watcher)
    assert all(torch.isfinite(t).all() for t in weights(next(mine.output.glob("step-*"))).values())


def test_a_disk_that_is_too_small_is_said_before_training(settings: Make, watcher, monkeypatch) -> None:
    real = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: real._replace(free=1000))
    with pytest.raises(TrainingError, match=r"0\.0 GB are free"):
        train(settings(), watcher)
    assert watcher.began == []


def test_a_device_that_is_too_small_is_said_before_the_weights_are_read(settings: Make, watcher, monkeypatch) -> None:
    """The whole 7B takes 120 GB: to learn that after minutes of loading, from an allocator, helps nobody."""
    monkeypatch.setattr(job, "free_bytes", lambda _: 1000)
    with pytest.raises(TrainingError, match="GB are free: train with lora"):
        train(settings(), watcher)


def test_an_error_on_the_command_line_is_one_line(settings: Make, tmp_path: Path, capsys) -> None:
    assert (
        main(["train", "--model", "x", "--data", str(tmp_path), "--output", str(tmp_path / "o"), "--steps", "0"]) == 2
    )
    assert "steps: Input should be greater than or equal to 1" in capsys.readouterr().err
    assert main(["train", "--model", "no/where/x", "--data", str(tmp_path), "--output", str(tmp_path / "o")]) == 2
    assert "is not a folder" in capsys.readouterr().err


def test_a_checkpoint_that_is_damaged_is_said(settings: Make, small: Path, tmp_path: Path, watcher) -> None:
    copy = shutil.copytree(small, tmp_path / "copy")
    (copy / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match="preprocessor_config"):
        train(settings(model=str(copy)), watcher)
