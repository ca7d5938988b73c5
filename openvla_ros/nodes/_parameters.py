"""Declares ROS parameters from a pydantic model, so that one class documents, checks and types them."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticUndefined
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


def _ros_value(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def declare(node: Node, model: type[Model]) -> Model:
    """Declare every field of ``model`` as a parameter of ``node`` and return the checked values.

    A nested model becomes ``group.name``. A field without default must be given. Raises ConfigError naming the field.
    """
    for name, info in _flatten(model).items():
        default = None if info.is_required() else info.get_default(call_default_factory=True)
        default = None if default is PydanticUndefined else _ros_value(default)
        # Dynamic typing lets `5` stand for 5.0 in a YAML file; pydantic does the checking.
        node.declare_parameter(
            name, default, ParameterDescriptor(description=info.description or "", dynamic_typing=True)
        )
    return read(node, model)


def read(node: Node, model: type[Model], changed: list[Parameter] | None = None) -> Model:
    """The current parameters of ``node`` as ``model``, with ``changed`` ones put in their place."""
    values = {name: node.get_parameter(name).value for name in _flatten(model)}
    values |= {p.name: p.value for p in changed or [] if p.name in values}
    try:
        return model.model_validate(_nest({k: v for k, v in values.items() if v is not None}))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or model.__name__}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"parameters of {node.get_name()}: {problems}") from None


def accept(check: Any) -> SetParametersResult:
    """Run ``check()``; a ConfigError becomes the refusal that the caller of ``ros2 param set`` reads."""
    try:
        check()
    except ConfigError as error:
        return SetParametersResult(successful=False, reason=str(error))
    return SetParametersResult(successful=True)
