"""Declares ROS parameters from a pydantic model, so that one class documents, checks and types them."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any, Literal, TypeVar, get_args, get_origin

import yaml
from annotated_types import Ge, Gt, Le, Lt, MinLen
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


def _constraints(info: Any) -> str:
    """What a field allows, for people: ``ros2 param describe`` shows it."""
    words = {Gt: ("gt", "above"), Ge: ("ge", "at least"), Lt: ("lt", "below"), Le: ("le", "at most")}
    parts = []
    for constraint in info.metadata:
        if type(constraint) in words:
            attribute, word = words[type(constraint)]
            parts.append(f"{word} {getattr(constraint, attribute):g}")
        elif isinstance(constraint, MinLen):
            parts.append("not empty")
    if get_origin(info.annotation) is Literal:
        parts.append(" or ".join(map(str, get_args(info.annotation))))
    unit = (info.json_schema_extra or {}).get("unit", "1")
    return ", ".join(parts) + (f" [{unit}]" if unit != "1" else "")


def _ros_value(info: Any) -> Any:
    """A field's default as a parameter takes it; None where it has none."""
    if info.is_required():
        return None
    value = info.get_default(call_default_factory=True)
    if _is_structured(info):
        return yaml.safe_dump([box.model_dump() for box in value], default_flow_style=True).strip()
    return list(value) if isinstance(value, tuple) else value


def _plain(name: str, value: Any, info: Any) -> Any:
    """A parameter's value as pydantic takes it. Raises ConfigError for what pydantic would take for something else."""
    if _is_structured(info):
        if not isinstance(value, str):
            raise ConfigError(f"{name}: {value!r} is not allowed: it must be text in YAML, such as '[]'")
        return yaml.safe_load(value)
    if isinstance(value, bool) and bool not in (info.annotation, *get_args(info.annotation)):
        raise ConfigError(f"{name}: {value!r} is not allowed: it is neither number nor text")  # pydantic: True is 1.0
    return value


def declare(node: Node, model: type[Model]) -> Model:
    """Declare every field of ``model`` as a parameter of ``node`` and return the checked values.

    A nested model becomes ``group.name``. A field without default must be given. Raises ConfigError naming the field.
    """
    for name, info in _flatten(model).items():
        # Dynamic typing lets `5` stand for 5.0 in a YAML file; pydantic does the checking, with better words than a
        # descriptor's range, which knows no open interval either.
        descriptor = ParameterDescriptor(
            description=info.description or "", additional_constraints=_constraints(info), dynamic_typing=True
        )
        node.declare_parameter(name, _ros_value(info), descriptor)
    return read(node, model)


def refuse_unknown(node: Node) -> None:
    """ConfigError for a parameter in a file or on the command line that ``node`` did not declare.

    ROS ignores it: whoever misspells a limit of the safety filter would run with the default and not know.
    """
    known = sorted(node._parameters)
    unknown = sorted(set(node._parameter_overrides) - set(known))
    if not unknown:
        return
    problems = []
    for name in unknown:
        near = [k for k in known if k.split(".")[-1] == name.split(".")[-1]] or get_close_matches(name, known, n=2)
        problems.append(f"'{name}' (did you mean {' or '.join(near)}?)" if near else f"'{name}'")
    raise ConfigError(f"parameters of {node.get_name()}: no {', '.join(problems)}; there are {', '.join(known)}")


def read(node: Node, model: type[Model], changed: list[Parameter] | None = None) -> Model:
    """The current parameters of ``node`` as ``model``, with ``changed`` ones put in their place."""
    fields = _flatten(model)
    values = {name: node.get_parameter(name).value for name in fields}
    values |= {p.name: p.value for p in changed or [] if p.name in values}
    try:
        values = {name: _plain(name, value, fields[name]) for name, value in values.items()}
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
