"""The package finds its own files in a source tree, a ROS prefix and a pip environment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from openvla_ros import paths
from openvla_ros.errors import ConfigError


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The module in site-packages, where no config/ lies beside it, with an empty prefix for Python."""
    module = tmp_path / "lib" / "site-packages" / "openvla_ros" / "paths.py"
    monkeypatch.setattr(paths, "__file__", str(module))
    monkeypatch.setattr(paths.sys, "prefix", str(tmp_path / "python"))
    monkeypatch.setenv("AMENT_PREFIX_PATH", "")
    paths.share_dir.cache_clear()
    yield tmp_path
    paths.share_dir.cache_clear()


def share(prefix: Path, *folders: str) -> Path:
    folder = prefix / "share" / "openvla_ros"
    for name in folders or ("config", "resource"):
        (folder / name).mkdir(parents=True)
    return folder


def test_files_that_ship_are_found() -> None:
    assert paths.config_file("sim.yaml").is_file()
    assert paths.resource_file("openvla-tiny").is_dir()


def test_the_first_complete_ros_prefix_counts(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A workspace on top of another one: the upper's files, not a mixture; a half-removed prefix is passed over."""
    share(installed / "half", "config")
    upper, lower = share(installed / "upper"), share(installed / "lower")
    assert upper != lower
    prefixes = [installed / name for name in ("none", "half", "upper", "lower")]
    monkeypatch.setenv("AMENT_PREFIX_PATH", ":".join(["", *map(str, prefixes)]))
    assert paths.config_file("a", "b.yaml") == upper / "config" / "a" / "b.yaml"


def test_without_ros_the_python_prefix_counts(installed: Path) -> None:
    assert share(installed / "python") == paths.share_dir()


def test_nowhere_is_an_error_that_says_where_it_looked(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMENT_PREFIX_PATH", "/opt/ros/none")
    with pytest.raises(ConfigError, match=r"none of .*/opt/ros/none/share/openvla_ros.*install the package again"):
        paths.share_dir()
