"""The pip package: a server without ROS gets the code, the command and the files that the code loads."""

import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("config", "launch", "openvla_ros", "resource", "LICENSE", "README.md", "setup.cfg", "setup.py")


def run(*command: object, cwd: Path) -> str:
    """Without PYTHONPATH above all: through it, pip and Python would find what is installed here already."""
    done = subprocess.run(command, cwd=cwd, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Path:
    """An environment with this package's wheel, the third-party packages of this one, and no ROS."""
    folder = tmp_path_factory.mktemp("server")
    source, environment = folder / "source", folder / "environment"
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, source / name)
    venv.create(environment)
    # setuptools is in this environment, not in the new one, so the wheel is built here.
    run(sys.executable, "setup.py", "--quiet", "bdist_wheel", "--dist-dir", folder, cwd=source)
    pip = (sys.executable, "-m", "pip", "--python", environment / "bin" / "python", "--disable-pip-version-check")
    run(*pip, "install", "--quiet", "--no-deps", *folder.glob("*.whl"), cwd=folder)
    site_packages = Path(sysconfig.get_path("purelib", vars={"base": str(environment), "platbase": str(environment)}))
    (site_packages / "third_party.pth").write_text(sysconfig.get_path("purelib"))
    (site_packages / "rclpy.py").write_text("raise ImportError('this server has no ROS')")
    return environment


@pytest.mark.parametrize(
    "file", ["config/sim.yaml", "config/fastdds_local.xml", "resource/openvla-blocks/model.safetensors"]
)
def test_code_finds_its_files(server, file):
    """A wheel without its data files installs without complaint and fails at the robot."""
    code = "from openvla_ros.paths import share_dir; print(share_dir())"
    shared = Path(run(server / "bin" / "python", "-c", code, cwd=server).strip())
    assert server in shared.parents
    assert (shared / file).is_file()


def test_command_is_installed_and_needs_no_ros(server):
    assert "verify" in run(server / "bin" / "openvla-ros", "--help", cwd=server)


def test_every_module_is_in_the_wheel(server):
    """`packages = find:` leaves out every folder without __init__.py."""
    installed = next(server.glob("lib/python3*/site-packages/openvla_ros"))
    wanted = {p.relative_to(ROOT / "openvla_ros") for p in (ROOT / "openvla_ros").rglob("*.py")}
    assert {str(p) for p in wanted if not (installed / p).is_file()} == set()
