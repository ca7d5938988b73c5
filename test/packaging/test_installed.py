"""What `make build` put into the environment, and the checkout that this suite must not run on instead."""

import os
import runpy
import subprocess
from pathlib import Path

import pytest

import openvla_ros

pytest.importorskip("rclpy", reason="colcon builds this only where ROS is")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def prefix() -> Path:
    """The folder that colcon installed to. Not the checkout, which `python -m pytest` and PYTHONPATH put first: it has
    no messages, and hides what is not installed."""
    package = Path(openvla_ros.__path__[0])
    assert package != ROOT / "openvla_ros", "the checkout is tested: run `make test`, or `pytest` without PYTHONPATH"
    return package.parents[3]  # <prefix>/lib/python3.X/site-packages/openvla_ros


def test_every_interface_is_generated(prefix):
    import openvla_ros.msg

    assert {path.stem for path in ROOT.glob("msg/*.msg")} <= set(dir(openvla_ros.msg))


def test_every_node_is_an_executable(prefix):
    """A node without executable is invisible to `ros2 run` and to launch."""
    executables = prefix / "lib" / "openvla_ros"
    nodes = [path.stem for path in (ROOT / "openvla_ros" / "nodes").glob("*_node.py")]
    assert nodes
    assert [name for name in nodes if not os.access(executables / name, os.X_OK)] == []


@pytest.mark.parametrize("folder", ["config", "launch", "resource"])
def test_every_data_file_is_installed(prefix, folder):
    wanted = {p.relative_to(ROOT) for p in (ROOT / folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    assert wanted
    assert {str(p) for p in wanted if not (prefix / "share" / "openvla_ros" / p).is_file()} == set()


def test_command_works_without_sourcing_anything(prefix, tmp_path):
    """Neither a sourced ROS nor the working folder, which may hold another checkout, may be needed."""
    (tmp_path / "openvla_ros").mkdir()
    (tmp_path / "openvla_ros" / "__init__.py").write_text("raise ImportError('the working folder was imported')")
    shown = subprocess.run(
        [prefix / "bin" / "openvla-ros", "--version"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert shown.stdout.split() == ["openvla_ros", openvla_ros.__version__]


def test_worker_processes_can_import_the_command(prefix):
    """Hazard: record-demos and evaluate start processes that import the command's file; it ran the command again."""
    assert "main" in runpy.run_path(str(prefix / "bin" / "openvla-ros"), run_name="__mp_main__")
