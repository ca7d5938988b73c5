"""package.xml and setup.cfg say what the code needs, no less."""

import ast
import configparser
import re
import sys
import xml.etree.ElementTree as ET
from collections import defaultdict
from pathlib import Path

import pytest

import openvla_ros

ROOT = Path(__file__).parents[2]
ROS_FREE = ("control", "drive", "policy", "recording", "robots", "sim", "training")
DISTRIBUTIONS = {
    "cv2": "opencv-python-headless",
    "PIL": "pillow",
    "tensorflow_datasets": "tensorflow-datasets",
    "yaml": "pyyaml",
}
COMES_WITH = {"annotated_types": "pydantic", "pydantic_core": "pydantic", "triton": "torch"}
SHARED = {  # name -> why two may have it
    "ArmModel": "control imports no robots: its Protocol is what it asks of the one class in robots/arm_model.py",
}


def imports_of(*folders: str) -> dict[str, set[str]]:
    """Top-level module name -> the files that import it, without the standard library and this package."""
    found = defaultdict(set)
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.level == 0:
                    names = [node.module]
                else:
                    continue
                for name in names:
                    found[name.partition(".")[0]].add(str(path.relative_to(ROOT)))
    return {name: files for name, files in found.items() if name not in sys.stdlib_module_names | {"openvla_ros"}}


def setup_cfg_requirements() -> set[str]:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    lines = parser["options"]["install_requires"].split("\n")
    for extra in parser["options.extras_require"].values():
        lines += extra.split("\n")
    return {re.split(r"[ ;<>=\[]", line, maxsplit=1)[0].lower() for line in lines if line}


def package_xml_dependencies() -> set[str]:
    package = ET.parse(ROOT / "package.xml").getroot()
    return {element.text for element in package if element.tag in ("depend", "exec_depend")}


def is_ros(module: str) -> bool:
    return bool(
        re.fullmatch(r"rclpy|rcl_.*|launch.*|cv_bridge|rosbag2_py|ament_.*|tf2_.*|.*_(msgs|srvs|interfaces)", module)
    )


def test_package_xml_declares_every_ros_package_that_is_imported():
    """On a machine with Debian packages, rosdep installs only what the manifest names."""
    used = {name: files for name, files in imports_of("openvla_ros", "launch").items() if is_ros(name)}
    missing = {name: files for name, files in used.items() if name not in package_xml_dependencies()}
    assert used
    assert not missing


def test_package_xml_declares_every_package_that_messages_use():
    """A message of a package that is only found by luck builds here and nowhere else."""
    messages = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.glob("msg/*.msg"))
    used = set(re.findall(r"^(\w+)/\w+", messages, flags=re.MULTILINE))
    cmake = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    assert used
    assert used <= package_xml_dependencies()
    assert all(f"find_package({name} REQUIRED)" in cmake for name in used)


def test_setup_cfg_declares_every_third_party_import():
    """`pip install` on a server must bring all that the code imports."""
    requirements = setup_cfg_requirements()
    used = {name: files for name, files in imports_of("openvla_ros").items() if not is_ros(name)}
    missing = {
        name: files
        for name, files in used.items()
        if (DISTRIBUTIONS | COMES_WITH).get(name, name).lower() not in requirements
    }
    assert used
    assert not missing


@pytest.mark.parametrize("part", ROS_FREE)
def test_part_imports_no_ros(part):
    """A server without ROS runs the policy; a test without ROS runs the filter."""
    assert not {name: files for name, files in imports_of(f"openvla_ros/{part}").items() if is_ros(name)}


def documented_imports() -> dict[str, set[str]]:
    """Folder -> the folders that it may import, of the table in docs/architecture.md. "all" is every other."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `openvla_ros/(\w+)/` \|.*\|([^|]*)\|$", text, flags=re.MULTILINE)
    folders = {name for name, _ in rows}
    return {name: folders if "all" in allowed else set(re.findall(r"`(\w+)`", allowed)) for name, allowed in rows}


def folder_imports(folder: str) -> set[str]:
    """The other folders of openvla_ros that one imports."""
    found = set()
    for path in (ROOT / "openvla_ros" / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
    parts = {name.split(".")[1] for name in found if name.startswith("openvla_ros.")}
    return {part for part in parts if (ROOT / "openvla_ros" / part).is_dir()} - {folder}


def test_every_folder_stands_in_the_table_of_imports():
    """Hazard: a new part that nobody placed."""
    folders = {path.parent.name for path in ROOT.glob("openvla_ros/*/__init__.py")}
    assert documented_imports().keys() == folders


@pytest.mark.parametrize("folder", documented_imports())
def test_imports_are_those_of_the_table(folder):
    """Hazard: a shortcut between two parts, after which neither can be changed alone; a table that no longer tells."""
    assert folder_imports(folder) - documented_imports()[folder] == set(), "imports that the table does not allow"
    if folder != "cli":
        assert documented_imports()[folder] - folder_imports(folder) == set(), "allowed by the table, but not used"


def public_types() -> dict[str, list[str]]:
    """Name -> the files that define a class or a type alias of that name, for use outside."""
    found = defaultdict(list)
    for path in sorted((ROOT / "openvla_ros").rglob("*.py")):
        for name in defined_types(ast.parse(path.read_text(encoding="utf-8"))):
            found[name].append(str(path.relative_to(ROOT)))
    return found


def defined_types(module: ast.Module) -> list[str]:
    """Public classes of a module, and what else it names like one. A TypeVar is only a placeholder."""
    classes = [node.name for node in module.body if isinstance(node, ast.ClassDef)]
    assigned = [
        target.id
        for node in module.body
        if isinstance(node, ast.Assign) and not is_call_of(node.value, "TypeVar")
        for target in node.targets
        if isinstance(target, ast.Name)
    ]
    aliases = [name for name in assigned if name[0].isupper() and not name.isupper()]
    return [name for name in classes if not name.startswith("_")] + aliases


def is_call_of(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name


def test_one_name_has_one_meaning():
    """Hazard: two classes of one name, and somebody imports, or reads, the other one."""
    shared = {name: files for name, files in public_types().items() if len(files) > 1}
    assert {name: files for name, files in shared.items() if name not in SHARED} == {}, "give each its own name"
    assert SHARED.keys() - shared.keys() == set(), "shared no more: take it out of SHARED"


def test_versions_agree():
    assert ET.parse(ROOT / "package.xml").getroot().findtext("version") == openvla_ros.__version__
