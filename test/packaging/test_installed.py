"""What `make build` put into the environment, and the checkout that this suite must not run on instead."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import openvla_ros

pytest.importorskip("rclpy", reason="colcon builds this only where ROS is")

ROOT = Path(__file__).parents[2]
PREFIX = Path(openvla_ros.__file__).parents[4]  # <prefix>/lib/python3.X/site-packages/openvla_ros/__init__.py


def test_suite_runs_on_the_installed_package():
    """`python -m pytest` and PYTHONPATH put the checkout first; it has no messages, and hides what is not installed."""
    assert Path(openvla_ros.__path__[0]) != ROOT / "openvla_ros", "run `make test`, or `pytest` without PYTHONPATH"


def test_every_interface_is_generated():
    import openvla_ros.msg

    assert {path.stem for path in ROOT.glob("msg/*.msg")} <= set(dir(openvla_ros.msg))


def test_every_node_is_an_executable():
    """A node without executable is invisible to `ros2 run` and to launch."""
    executables = PREFIX / "lib" / "openvla_ros"
    nodes = [path.stem for path in (ROOT / "openvla_ros" / "nodes").glob("*_node.py")]
    assert nodes
    assert [name for name in nodes if not os.access(executables / name, os.X_OK)] == []


@pytest.mark.parametrize("folder", ["config", "launch", "resource"])
def test_every_data_file_is_installed(folder):
    wanted = {p.relative_to(ROOT) for p in (ROOT / folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    assert wanted
    assert {str(p) for p in wanted if not (PREFIX / "share" / "openvla_ros" / p).is_file()} == set()


def test_command_works_without_sourcing_anything(tmp_path):
    """Neither a sourced ROS nor the working folder, which may hold another checkout, may be needed."""
    (tmp_path / "openvla_ros").mkdir()
    (tmp_path / "openvla_ros" / "__init__.py").write_text("raise ImportError('the working folder was imported')")
    shown = subprocess.run(
        [PREFIX / "bin" / "openvla-ros", "--version"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert shown.stdout.split() == ["openvla_ros", openvla_ros.__version__]
    assert sys.executable  # the interpreter is in the executable's first line, not on the PATH
