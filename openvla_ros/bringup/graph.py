"""The one description of each graph: which nodes, with which parameters and topics.

`ros2 launch` (launch/*.launch.py) and `openvla-ros` (bringup/processes.py) both start what stands here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from openvla_ros.errors import ConfigError
from openvla_ros.paths import config_file, resource_file

KILL_AFTER = 2.0  # [s] from the end of a node's patience to SIGKILL; `ros2 launch` sends SIGTERM in between


@dataclass(frozen=True)
class NodeSpec:
    """One node process. ``name`` is the node's name, ``executable`` its module in openvla_ros.nodes."""

    name: str
    executable: str
    parameters: dict[str, Any] = field(default_factory=dict)
    parameter_files: tuple[Path, ...] = ()
    remappings: dict[str, str] = field(default_factory=dict)
    lifecycle: bool = False
    images: bool = False  # takes or gives camera images: bringup/dds.py
    patience: float = 5.0  # [s] that the node gets for its end, from SIGINT on, before force is used


@dataclass(frozen=True)
class GraphSpec:
    """The nodes of one graph. Names and topics are relative to ``namespace``."""

    nodes: tuple[NodeSpec, ...]
    namespace: str = ""

    def with_parameters(self, node: str, **parameters: Any) -> GraphSpec:
        """This graph with parameters of one node changed. Raises ConfigError for a node that is not in it."""
        if node not in {n.name for n in self.nodes}:
            raise ConfigError(f"node '{node}' is not in the graph: {', '.join(n.name for n in self.nodes)}")
        nodes = tuple(
            replace(n, parameters={**n.parameters, **parameters}) if n.name == node else n for n in self.nodes
        )
        return replace(self, nodes=nodes)

    def without(self, *names: str) -> GraphSpec:
        """This graph less the nodes ``names``."""
        return replace(self, nodes=tuple(n for n in self.nodes if n.name not in names))

    def with_topic(self, name: str, topic: str) -> GraphSpec:
        """This graph with what its nodes call ``name`` taken from, or sent to, ``topic``."""
        return replace(self, nodes=tuple(replace(n, remappings={**n.remappings, name: topic}) for n in self.nodes))

    def with_argument(self, name: str, value: str) -> GraphSpec:
        """This graph with one of ARGUMENTS set from text, typed as YAML types it: ``5`` is a number. ConfigError."""
        argument = next(a for a in ARGUMENTS if a.name == name)
        if argument.node == "":
            return self.with_topic(name, value)
        try:
            return self.with_parameters(argument.node, **{argument.parameter or name: yaml.safe_load(value)})
        except yaml.YAMLError as error:
            raise ConfigError(f"{name}: {value!r} is no YAML: {error}") from None


@dataclass(frozen=True)
class Argument:
    """What a user may give on the command line of `ros2 launch` (name:=value) or `openvla-ros up` (--name value).

    ``node``: whose parameter it is, of this name unless ``parameter`` gives another; empty for a topic that is
    remapped in every node.
    """

    name: str
    node: str
    description: str
    parameter: str = ""

    def fits(self, graph: GraphSpec) -> bool:
        """Whether ``graph`` has what this changes."""
        return not self.node or self.node in {n.name for n in graph.nodes}


ARGUMENTS = (
    Argument("checkpoint", "policy", "Hugging Face hub id or folder of the model"),
    Argument("unnorm_key", "policy", "dataset whose statistics un-normalize the actions"),
    Argument("device", "policy", "auto, cpu, cuda, cuda:1, ..."),
    Argument("precision", "policy", "auto, float32, bf16"),
    Argument("mode", "policy", "control mode: blocking or non_blocking"),
    Argument("image", "", "topic of the camera that the policy sees"),
    Argument("joint_states", "", "topic on which the arm's own driver publishes joint states"),
    Argument(
        "table_height",
        "safety_filter",
        "height of the table's top in the arm's base frame [m], negative below it; docs/safety.md says how to measure",
        "collision.table_height_m",
    ),
    Argument("seed", "sim", "random scene of the simulated world"),
    Argument("episodes", "recorder", "folder that episodes are recorded to"),
    Argument("record", "recorder", "control: each time the policy is active; request: only when asked to"),
)


def _control_nodes(params: Path, checkpoint: str) -> tuple[NodeSpec, ...]:
    """What every robot's graph has in common: policy, safety filter, driver, recorder."""
    return (
        NodeSpec("policy", "policy_node", {"checkpoint": checkpoint}, (params,), lifecycle=True, images=True),
        NodeSpec("safety_filter", "safety_filter_node", parameter_files=(params,)),
        NodeSpec("arm_driver", "arm_driver_node", parameter_files=(params,)),
        NodeSpec("recorder", "recorder_node", parameter_files=(params,), images=True, patience=35.0),  # for a slow disk
    )


def sim() -> GraphSpec:
    """The whole graph on the simulated WidowX 250 S. Parameters: config/sim.yaml."""
    params = config_file("sim.yaml")
    control = _control_nodes(params, str(resource_file("openvla-blocks")))
    simulation = NodeSpec("sim", "sim_node", parameter_files=(params,), images=True)
    return GraphSpec((simulation, *control))


def wx250s() -> GraphSpec:
    """A real WidowX 250 S, driven through its ros2_control trajectory controllers. Parameters: config/wx250s.yaml."""
    return GraphSpec(_control_nodes(config_file("wx250s.yaml"), "openvla/openvla-7b"), "wx250s")


GRAPHS: dict[str, Callable[[], GraphSpec]] = {"sim": sim, "wx250s": wx250s}
