"""scripts/env.sh: which ROS a shell gets."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHOW = 'set -euo pipefail; source scripts/env.sh; echo "$ros|${VENV#"$root"/}|${_ROS_WHEELS_BOOTSTRAP_COMPLETE-unset}"'
STARTS_EMPTY = ("ROS", "VENV", "ROS_DISTRO", "AMENT_PREFIX_PATH", "PYTHONPATH")


def choose(**settings: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in STARTS_EMPTY} | settings
    return subprocess.run(["bash", "-c", SHOW], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)


@pytest.fixture
def sourced(tmp_path) -> dict[str, str]:
    """The variables that a ROS installation's setup.bash sets."""
    (tmp_path / "share" / "rclpy").mkdir(parents=True)
    (tmp_path / "share" / "rclpy" / "package.xml").touch()
    return {"ROS_DISTRO": "humble", "AMENT_PREFIX_PATH": f"/nowhere:{tmp_path}"}


def test_each_release_has_an_environment_of_its_own():
    # VENV is named, so that the answer does not depend on what this machine's .venv was made for.
    assert choose(VENV=".venv-none").stdout.startswith("jazzy|.venv-none|")
    assert choose(ROS="kilted").stdout.startswith("kilted|.venv-kilted|")


def test_a_sourced_ros_is_used(sourced):
    """Two ROS installations in one process crash or, worse, do not."""
    assert choose(**sourced).stdout.startswith("humble|.venv|")


def test_a_sourced_ros_and_another_from_pypi_refuse(sourced):
    refused = choose(ROS="kilted", **sourced)
    assert refused.returncode == 1
    assert "humble" in refused.stderr


def test_our_own_environment_is_no_sourced_ros():
    """Whoever sources .venv/setup.bash must not get an environment on top of itself."""
    own = choose(VENV=".venv-none", AMENT_PREFIX_PATH=str(ROOT / ".venv"))
    assert own.stdout.startswith("jazzy|.venv-none|")


def test_unknown_release_names_the_known_ones():
    refused = choose(ROS="foxy")
    assert refused.returncode == 1
    assert "jazzy or kilted" in refused.stderr


def test_the_guard_of_other_ros_wheels_is_not_inherited():
    """With it set, the Python of this environment does not look for its own ROS libraries."""
    assert choose(_ROS_WHEELS_BOOTSTRAP_COMPLETE="1").stdout.strip().endswith("|unset")
