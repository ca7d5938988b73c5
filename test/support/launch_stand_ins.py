"""What our launch files need of launch and launch_ros, which are not on PyPI: records what it is given.

Only where the real ones are missing; with them, the same tests run on them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


class Recorded:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args, self.kwargs = args, kwargs


class LaunchDescription(Recorded): ...


class DeclareLaunchArgument(Recorded): ...


class LogInfo(Recorded): ...


class OpaqueFunction(Recorded): ...


class Shutdown(Recorded): ...


class Node(Recorded): ...


class LifecycleNode(Node): ...


class ParameterValue(Recorded): ...


@dataclass
class Started:
    """One node as launch would start it."""

    kind: str
    package: str
    executable: str
    name: str
    namespace: str
    parameter_files: list[str]
    parameters: dict[str, Any]
    remappings: dict[str, str]
    environment: dict[str, str]
    sigterm_timeout: float  # [s] after SIGINT
    sigkill_timeout: float  # [s] after SIGTERM
    on_exit: Callable[[Any, Any], list[Any]]


@dataclass
class Launched:
    """A launch description, carried out as far as starting processes."""

    arguments: dict[str, str] = field(default_factory=dict)  # name -> default
    nodes: list[Started] = field(default_factory=list)


REAL = importlib.util.find_spec("launch_ros") is not None


def install(patch: pytest.MonkeyPatch) -> None:
    """Put the stand-ins where the imports look."""
    import sys

    modules = {
        "launch": {"LaunchDescription": LaunchDescription},
        "launch.actions": {
            "DeclareLaunchArgument": DeclareLaunchArgument,
            "LogInfo": LogInfo,
            "OpaqueFunction": OpaqueFunction,
            "Shutdown": Shutdown,
        },
        "launch_ros": {},
        "launch_ros.actions": {"Node": Node, "LifecycleNode": LifecycleNode},
        "launch_ros.parameter_descriptions": {"ParameterValue": ParameterValue},
    }
    for name, content in modules.items():
        module = ModuleType(name)
        vars(module).update(content)
        patch.setitem(sys.modules, name, module)


def carry_out(description: Any, given: dict[str, str]) -> Launched:
    return _carry_out_real(description, given) if REAL else _carry_out(description, given)


def _carry_out(description: LaunchDescription, given: dict[str, str]) -> Launched:
    launched = Launched()
    context = SimpleNamespace(launch_configurations=dict(given))
    for entity in description.args[0]:
        if isinstance(entity, DeclareLaunchArgument):
            (name,), default = entity.args, entity.kwargs["default_value"]
            launched.arguments[name] = default
            context.launch_configurations.setdefault(name, default)
        elif isinstance(entity, OpaqueFunction):
            nodes = entity.kwargs["function"](context, *entity.kwargs["args"])
            launched.nodes += [_started(type(n).__name__, n.kwargs) for n in nodes]
    return launched


def _started(kind: str, kwargs: dict[str, Any]) -> Started:
    *files, parameters = kwargs["parameters"]
    # launch reads plain text as YAML, and leaves a ParameterValue of type str alone.
    assert not any(isinstance(v, str) for v in parameters.values())
    plain = {n: v.args[0] if isinstance(v, ParameterValue) else v for n, v in parameters.items()}
    return Started(
        kind,
        *(kwargs[k] for k in ("package", "executable", "name", "namespace")),
        files,
        plain,
        dict(kwargs["remappings"]),
        kwargs["additional_env"],
        float(kwargs["sigterm_timeout"]),
        float(kwargs["sigkill_timeout"]),
        kwargs["on_exit"],
    )


def _carry_out_real(description: Any, given: dict[str, str]) -> Launched:
    from launch import LaunchContext
    from launch.actions import DeclareLaunchArgument
    from launch.utilities import perform_substitutions

    launched = Launched()
    context = LaunchContext()
    context.launch_configurations.update(given)
    for entity in description.entities:
        made = entity.visit(context) or []
        if isinstance(entity, DeclareLaunchArgument):
            launched.arguments[entity.name] = perform_substitutions(context, entity.default_value)
        else:
            launched.nodes += [_real_node(context, node) for node in made]
    return launched


def _real_node(context: Any, node: Any) -> Started:
    import yaml
    from launch.utilities import perform_substitutions

    extra = node.process_description.additional_env or []
    node._perform_substitutions(context)
    files, parameters = [], {}
    for argument, is_file in node._Node__expanded_parameter_arguments:
        assert is_file
        if Path(argument).name.startswith("launch_params_"):
            ((_, section),) = yaml.safe_load(Path(argument).read_text()).items()
            parameters |= section["ros__parameters"]
        else:
            files.append(argument)
    return Started(
        type(node).__name__,
        node.node_package,
        node.node_executable,
        node._Node__expanded_node_name,
        node.expanded_node_namespace.strip("/"),
        files,
        parameters,
        dict(node.expanded_remapping_rules or []),
        {perform_substitutions(context, name): perform_substitutions(context, value) for name, value in extra},
        float(perform_substitutions(context, node._ExecuteLocal__sigterm_timeout)),
        float(perform_substitutions(context, node._ExecuteLocal__sigkill_timeout)),
        node._ExecuteLocal__on_exit,
    )
