"""Settings: from a file, from flags, from both; what is wrong is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from openvla_ros.errors import ConfigError
from openvla_ros.paths import config_file
from openvla_ros.training.loop import learning_rate
from openvla_ros.training.settings import TrainSettings, demand_same, load_settings, parse_change

Make = Callable[..., TrainSettings]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "train.yaml"
    path.write_text("model: a\ndata: [b]\noutput: c\nlora: {rank: 8}\nlearning_rate: 1.0e-4\n")
    return path


def test_flags_win_over_the_file(file: Path) -> None:
    changes = dict(
        map(parse_change, ["lora.dropout=0.1", "learning_rate=3e-4", "augmentation=null", "unnorm_key=mine"])
    )
    settings = load_settings(file, changes)
    assert settings.lora is not None
    assert (settings.lora.rank, settings.lora.dropout) == (8, 0.1)
    assert settings.learning_rate == 3e-4  # which YAML takes for text
    assert settings.augmentation is None
    assert settings.unnorm_key == "mine"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("batch_size=0", "batch_size"),
        ("bach_size=8", "bach_size"),
        ("lora.rank=many", r"lora\.rank"),
        ("augmentation.crop_area=2", r"augmentation\.crop_area"),
        ("learning_rate=.nan", "learning_rate"),
        ("data=[]", "data"),
        ("steps", "NAME=VALUE"),
    ],
)
def test_the_field_that_is_wrong_is_named(file: Path, change: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        load_settings(file, dict([parse_change(change)]))


def test_a_file_that_is_no_settings_is_refused(tmp_path: Path) -> None:
    for content in ("- a list", "{", ""):
        (tmp_path / "bad.yaml").write_text(content)
        with pytest.raises(ConfigError, match=r"bad\.yaml"):
            load_settings(tmp_path / "bad.yaml", {})
    with pytest.raises(ConfigError, match="missing"):
        load_settings(tmp_path / "missing.yaml", {})


def test_every_setting_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    assert [name for name in TrainSettings.model_fields if f"| `{name}` |" not in page] == []


def test_the_examples_in_config_are_settings() -> None:
    settings = load_settings(config_file("train_lora.yaml"), {"data": ["x"]})
    assert settings.lora is not None
    assert settings.rate == 5e-4


def test_a_training_goes_on_only_as_it_began(settings: Make) -> None:
    """A learning rate that changes on the way is found nowhere afterwards."""
    demand_same(settings(), settings(steps=100, log_every=7, device="cuda"))
    with pytest.raises(ConfigError, match=r"learning_rate was 0\.001, not 0\.1"):
        demand_same(settings(), settings(learning_rate=0.1))
    with pytest.raises(ConfigError, match="cosine"):
        demand_same(settings(schedule="cosine"), settings(schedule="cosine", steps=7))


def test_the_learning_rate_rises_and_falls(settings: Make) -> None:
    cosine = settings(schedule="cosine", warmup_steps=10, steps=110, learning_rate=1.0)
    assert [learning_rate(cosine, step) for step in (0, 4, 9, 10)] == [0.1, 0.5, 1.0, 1.0]
    assert learning_rate(cosine, 60) == pytest.approx(0.5)
    assert 0 < learning_rate(cosine, 109) < 1e-3
    assert learning_rate(settings(steps=110, learning_rate=1.0), 109) == 1.0
    assert (settings(learning_rate=None).rate, settings(learning_rate=None, lora={}).rate) == (2e-5, 5e-4)
