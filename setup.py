"""The ROS-free parts as a pip package. Everything that needs no code is in setup.cfg."""

from pathlib import Path

from setuptools import setup

DATA_FOLDERS = ("config", "launch", "msg", "resource")

root = Path(__file__).parent
files = (path.relative_to(root) for folder in DATA_FOLDERS for path in sorted((root / folder).rglob("*")))
setup(data_files=[(f"share/openvla_ros/{f.parent}", [str(f)]) for f in files if f.is_file() and f.suffix != ".pyc"])
