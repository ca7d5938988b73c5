"""`ros2 launch` starts what bringup/graph.py describes, and nothing else: on the real launch where it is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import launch_stand_ins
import pytest
from launch_stand_ins import Launched, carry_out

from openvla_ros.bringup.dds import environment
from openvla_ros.bringup.graph import ARGUMENTS, GRAPHS, KILL_AFTER, GraphSpec
from openvla_ros.bringup.ros_launch import describe

LAUNCH = Path(__file__).parents[2] / "launch"
TRICKY = {"keep_out": "[{name: camera, lower_m: [0, 0, 0], upper_m: [1, 1, 1]}]", "tick_hz": 50.0, "a": "5", "b": ""}


@pytest.fixture(autouse=True)
def modules() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if not launch_stand_ins.REAL:
            launch_stand_ins.install(patch)
        yield


def assert_same(launched: Launched, graph: GraphSpec) -> None:
    for started, spec in zip(launched.nodes, graph.nodes, strict=True):
        assert started.kind == ("LifecycleNode" if spec.lifecycle else "Node")
        assert (started.package, started.executable, started.name) == ("openvla_ros", spec.executable, spec.name)
        assert started.namespace == graph.namespace
        assert started.parameter_files == [str(f) for f in spec.parameter_files]
        assert started.parameters == spec.parameters
        assert started.remappings == spec.remappings
        assert started.environment == environment(spec.images)
        assert (started.sigterm_timeout, started.sigkill_timeout) == (spec.patience, KILL_AFTER)


@pytest.mark.parametrize("name", sorted(GRAPHS))
def test_launch_files_start_the_described_graph(name: str) -> None:
    """Hazard: the graph that is tested and the one that `ros2 launch` starts drift apart."""
    spec = importlib.util.spec_from_file_location("launch_file", LAUNCH / f"{name}.launch.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    graph = GRAPHS[name]()
    launched = carry_out(module.generate_launch_description(), {})
    assert_same(launched, graph)
    assert launched.arguments == {"namespace": graph.namespace} | {a.name: "" for a in ARGUMENTS if a.fits(graph)}


def test_arguments_change_the_graph_as_they_do_for_up() -> None:
    given = {"checkpoint": "openvla/openvla-7b", "seed": "7", "image": "/camera/image_raw", "namespace": "left"}
    launched = carry_out(describe(GRAPHS["sim"]()), given)
    graph = GRAPHS["sim"]()
    for name in ("checkpoint", "seed", "image"):
        graph = graph.with_argument(name, given[name])
    assert_same(launched, GraphSpec(graph.nodes, "left"))


def test_what_an_including_launch_file_has_set_does_no_harm() -> None:
    """Hazard: launch configurations are shared; another file's `seed` ends a graph that has no simulation."""
    graph = GRAPHS["sim"]().without("sim")
    assert_same(carry_out(describe(graph), {"seed": "7"}), graph)


def test_parameters_keep_their_types() -> None:
    """Hazard: launch reads text as YAML: a keep-out box becomes a list, which no parameter can hold."""
    graph = GRAPHS["sim"]().with_parameters("safety_filter", **TRICKY)
    launched = carry_out(describe(graph), {})
    assert_same(launched, graph)
    parameters = next(n.parameters for n in launched.nodes if n.name == "safety_filter")
    assert {n: type(v) for n, v in parameters.items()} == {n: type(v) for n, v in TRICKY.items()}


def test_a_refused_configuration_ends_the_launch_and_nothing_else_does() -> None:
    """Hazard: half a graph runs on, without its safety filter or its recorder, and the reason scrolls away. A node that
    dies in control must not take the filter and the driver with it, which hold the arm."""
    launched = carry_out(describe(GRAPHS["sim"]()), {})
    for node in launched.nodes:
        (action,) = node.on_exit(SimpleNamespace(returncode=2, process_name="sim-1"), None)
        assert type(action).__name__ == "Shutdown"
        for status in (0, 1, -2, -9):
            assert node.on_exit(SimpleNamespace(returncode=status, process_name="sim-1"), None) == []
