"""Declares ROS parameters from a pydantic model, so that one class documents, checks and types them."""

from __future__ import annotations

from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from openvla_ros.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)


def _flatten(model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """{dotted name: field info} of a model, nested models flattened."""
    fields: dict[str, Any] = {}
    for name, info in model.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            fields |= _flatten(kind, f"{prefix}{name}.")
        else:
            fields[prefix + name] = info
    return fields


def _nest(values: dict[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for dotted, value in values.items():
        *groups, name = dotted.split(".")
        here = nested
        for group in groups:
            here = here.setdefault(group, {})
        here[name] = value
    return nested


def _is_structured(info: Any) -> bool:
    """Whether a field holds models in a list (keep-out boxes): a parameter can't, so it is a string of YAML."""
    return any(isinstance(a, type) and issubclass(a, BaseModel) for a in get_args(info.annotation))


def _ros_value(info: Any) -> Any:
    """A field's default as a parameter takes it; None where it has none."""
    if info.is_required():
        return None
    value = info.get_default(call_default_factory=True)
    if _is_structured(info):
        return yaml.safe_dump([box.model_dump() for box in value], default_flow_style=True).strip()
    return list(value) if isinstance(value, tuple) else value


def declare(node: Node, model: type[Model]) -> Model:
    """Declare every field of ``model`` as a parameter of ``node`` and return the checked values.

    A nested model becomes ``group.name``. A field without default must be given. Raises ConfigError naming the field.
    """
    for name, info in _flatten(model).items():
        # Dynamic typing lets `5` stand for 5.0 in a YAML file; pydantic does the checking.
        node.declare_parameter(
            name, _ros_value(info), ParameterDescriptor(description=info.description or "", dynamic_typing=True)
        )
    return read(node, model)


def read(node: Node, model: type[Model], changed: list[Parameter] | None = None) -> Model:
    """The current parameters of ``node`` as ``model``, with ``changed`` ones put in their place."""
    fields = _flatten(model)
    values = {name: node.get_parameter(name).value for name in fields}
    values |= {p.name: p.value for p in changed or [] if p.name in values}
    try:
        values |= {name: yaml.safe_load(values[name]) for name, info in fields.items() if _is_structured(info)}
        return model.model_validate(_nest({k: v for k, v in values.items() if v is not None}))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or model.__name__}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"parameters of {node.get_name()}: {problems}") from None
    except (ConfigError, yaml.YAMLError) as error:
        raise ConfigError(f"parameters of {node.get_name()}: {error}") from None


def accept(check: Any) -> SetParametersResult:
    """Run ``check()``; a ConfigError becomes the refusal that the caller of ``ros2 param set`` reads."""
    try:
        check()
    except ConfigError as error:
        return SetParametersResult(successful=False, reason=str(error))
    return SetParametersResult(successful=True)
