"""Turns a GraphSpec into a launch description, so that the launch files say nothing of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from openvla_ros.bringup.dds import environment, warning
from openvla_ros.bringup.graph import ARGUMENTS, KILL_AFTER, GraphSpec

MISCONFIGURED = 2  # exit status of a node, see ros/spin.py

if TYPE_CHECKING:
    from launch import LaunchContext, LaunchDescription


def describe(graph: GraphSpec) -> LaunchDescription:
    """The launch description of ``graph`` with a launch argument for each of ARGUMENTS. Needs launch, launch_ros."""
    from launch import LaunchDescription
    from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction

    arguments = [a for a in ARGUMENTS if a.fits(graph)]
    return LaunchDescription(
        [
            DeclareLaunchArgument("namespace", default_value=graph.namespace, description="namespace of all nodes"),
            *(DeclareLaunchArgument(a.name, default_value="", description=a.description) for a in arguments),
            *([LogInfo(msg=f"warning: {warning()}")] if warning() else []),
            OpaqueFunction(function=_nodes, args=[graph]),
        ]
    )


def _nodes(context: LaunchContext, graph: GraphSpec) -> list[Any]:
    """The node actions, once the launch arguments are known."""
    from launch_ros.actions import LifecycleNode, Node

    # Holds what an including launch file has set for its own purposes, too.
    given = context.launch_configurations
    for argument in ARGUMENTS:
        if given.get(argument.name) and argument.fits(graph):
            graph = graph.with_argument(argument.name, given[argument.name])
    return [
        (LifecycleNode if spec.lifecycle else Node)(
            package="openvla_ros",
            executable=spec.executable,
            name=spec.name,
            namespace=given.get("namespace", graph.namespace),
            parameters=[*map(str, spec.parameter_files), _typed(spec.parameters)],
            remappings=list(spec.remappings.items()),
            additional_env=environment(spec.images),
            output="screen",
            sigterm_timeout=str(spec.patience),
            sigkill_timeout=str(KILL_AFTER),
            on_exit=_on_exit,
        )
        for spec in graph.nodes
    ]


def _on_exit(event: Any, context: LaunchContext) -> list[Any]:
    """A configuration that can't work ends the launch, as it ends `openvla-ros up`: half a graph is no use."""
    from launch.actions import Shutdown

    if event.returncode != MISCONFIGURED:
        return []
    return [Shutdown(reason=f"{event.process_name} refuses its configuration, see above")]


def _typed(parameters: dict[str, Any]) -> dict[str, Any]:
    """Parameters that launch leaves as they are: it reads plain text as YAML, `5` as a number."""
    from launch_ros.parameter_descriptions import ParameterValue

    return {n: ParameterValue(v, value_type=str) if isinstance(v, str) else v for n, v in parameters.items()}
