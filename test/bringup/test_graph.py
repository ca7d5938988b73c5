"""The one description of each graph."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from openvla_ros.bringup.graph import ARGUMENTS, GRAPHS, GraphSpec
from openvla_ros.control.safety import SafetyConfig
from openvla_ros.errors import ConfigError

LAUNCH = Path(__file__).parents[2] / "launch"


@pytest.fixture(params=sorted(GRAPHS))
def graph(request: pytest.FixtureRequest) -> GraphSpec:
    return GRAPHS[request.param]()


def test_every_node_exists(graph: GraphSpec) -> None:
    for node in graph.nodes:
        assert find_spec(f"openvla_ros.nodes.{node.executable}")
    assert len({n.name for n in graph.nodes}) == len(graph.nodes)


def test_every_section_of_a_parameter_file_is_for_a_node_of_the_graph(graph: GraphSpec) -> None:
    """Hazard: a section for `safty_filter` is read by nobody, and the filter runs with its defaults."""
    names = {n.name for n in graph.nodes}
    for file in {f for n in graph.nodes for f in n.parameter_files}:
        sections = yaml.safe_load(file.read_text())
        assert {re.sub(r"^/\*\*/", "", s) for s in sections} <= names
        assert all(list(s) == ["ros__parameters"] for s in sections.values())


@pytest.mark.parametrize("name", sorted(GRAPHS))
def test_every_graph_has_a_launch_file(name: str) -> None:
    assert (LAUNCH / f"{name}.launch.py").is_file()


def test_parameters_are_changed_in_one_node_of_a_copy() -> None:
    graph = GRAPHS["sim"]()
    changed = graph.with_parameters("policy", device="cuda")
    policy = next(n for n in changed.nodes if n.name == "policy")
    assert policy.parameters["device"] == "cuda"
    assert policy.parameters["checkpoint"].endswith("openvla-blocks")
    assert graph == GRAPHS["sim"]()
    with pytest.raises(ConfigError, match="node 'polcy' is not in the graph: sim, policy, "):
        graph.with_parameters("polcy", device="cuda")


def test_an_argument_is_typed_as_yaml_types_it() -> None:
    graph = GRAPHS["sim"]().with_argument("seed", "5").with_argument("checkpoint", "openvla/openvla-7b")
    parameters = {n.name: n.parameters for n in graph.nodes}
    assert parameters["sim"] == {"seed": 5}
    assert parameters["policy"]["checkpoint"] == "openvla/openvla-7b"
    with pytest.raises(ConfigError, match=r"seed: '\[1' is no YAML"):
        graph.with_argument("seed", "[1")


def test_the_tables_height_is_an_argument() -> None:
    """Hazard: the table's height has another name on the command line than in the filter, which then ignores it."""
    graph = GRAPHS["wx250s"]().with_argument("table_height", "-0.035")
    parameters = {n.name: n.parameters for n in graph.nodes}
    assert parameters["safety_filter"] == {"collision.table_height_m": -0.035}
    assert "collision.table_height_m" in {name for name, _, _ in SafetyConfig().fields()}


def test_a_topic_is_changed_for_every_node() -> None:
    """Hazard: policy and recorder with different cameras: the episode shows what the policy did not see."""
    graph = GRAPHS["sim"]().with_argument("image", "/camera/color/image_raw")
    assert all(n.remappings == {"image": "/camera/color/image_raw"} for n in graph.nodes)


def test_arguments_fit_where_their_node_is() -> None:
    without = GRAPHS["sim"]().without("sim", "recorder")
    assert {n.name for n in without.nodes} == {"policy", "safety_filter", "arm_driver"}
    fitting = {a.name for a in ARGUMENTS if a.fits(without)}
    assert {"checkpoint", "image"} <= fitting
    assert not {"seed", "episodes"} & fitting
