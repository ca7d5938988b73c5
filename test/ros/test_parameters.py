"""Pydantic models as ROS parameters, on a real node."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field
from rclpy.node import Node
from rclpy.parameter import Parameter
from ros_nodes import ros

from openvla_ros.control.safety.config import SafetyConfig
from openvla_ros.errors import ConfigError
from openvla_ros.ros import parameters


class Inner(BaseModel):
    hz: float = Field(5.0, gt=0.0, le=100.0, description="a rate [Hz]")
    joints: tuple[float, ...] | None = None


class Box(BaseModel):
    name: str
    corner: tuple[float, float]


class Settings(BaseModel):
    mode: Literal["slow", "fast"] = "slow"
    count: int = Field(1, ge=1, lt=10)
    robot: str = Field(min_length=1, description="which one")
    flag: bool = False
    limit: float | None = Field(None, gt=0.0)
    names: list[str] = ["a", "b"]
    inner: Inner = Inner()
    boxes: tuple[Box, ...] = ()


Declare = Callable[..., tuple[Node, Any]]


@pytest.fixture
def started(domain: int, tmp_path: Path) -> Declare:
    """started(yaml, model): a node whose parameter file holds ``yaml``, as a process would start with it."""

    @contextmanager
    def start(content: str, model: type[BaseModel] = Settings) -> Iterator[tuple[Node, Any]]:
        file = tmp_path / "params.yaml"
        lines = "\n".join(f"    {line}" for line in content.splitlines())
        file.write_text(f"/**/thing:\n  ros__parameters:\n    use_sim_time: false\n{lines}\n")
        with ros(domain, ["--ros-args", "--params-file", str(file)]) as running:
            node = running.node("thing")
            yield node, parameters.declare(node, model)
            parameters.refuse_unknown(node)

    return start


def test_values_come_from_the_file_and_the_rest_from_the_model(started: Declare) -> None:
    with started("robot: wx250s\nnames: [c]\ninner:\n  hz: 7.5\n  joints: [1.0, 2.0]") as (node, settings):
        assert settings == Settings(robot="wx250s", names=["c"], inner=Inner(hz=7.5, joints=(1.0, 2.0)))
        assert node.get_parameter("inner.hz").value == 7.5
        assert node.get_parameter("count").value == 1
        assert node.get_parameter("limit").value is None


def test_a_whole_number_stands_for_a_float(started: Declare) -> None:
    """Hazard: `hz: 5` in a YAML file ends the node with a message about ROS types."""
    with started("robot: r\ninner: {hz: 5}\nlimit: 2") as (_, settings):
        assert settings.inner.hz == 5.0
        assert settings.limit == 2.0


def test_a_list_of_models_is_text_in_yaml(started: Declare) -> None:
    """Keep-out boxes: a ROS parameter can't hold them otherwise."""
    with started("""keep_out: "[{name: camera, lower_m: [0, 0, 0], upper_m: [1, 1, 0.5]}]" """, SafetyConfig) as (
        node,
        config,
    ):
        assert config.keep_out[0].name == "camera"
        assert config.keep_out[0].upper_m == (1.0, 1.0, 0.5)
        assert isinstance(node.get_parameter("keep_out").value, str)


def test_the_safety_filters_defaults_survive_ros(started: Declare) -> None:
    with started("", SafetyConfig) as (_, config):
        assert config == SafetyConfig()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("mode: slow", "robot: Field required"),
        ("robot: r\ninner: {hz: 0.0}", "inner.hz: Input should be greater than 0"),
        ("robot: r\ninner: {hz: .nan}", "inner.hz: Input should be"),
        ("robot: r\ninner: {hz: true}", "inner.hz: True is not allowed"),
        ("robot: r\ncount: 10", "count: Input should be less than 10"),
        ("robot: r\ncount: 1.5", "count: Input should be a valid integer"),
        ("robot: 5", "robot: Input should be a valid string"),
        ("robot: r\nmode: quick", "mode: Input should be 'slow' or 'fast'"),
        ("robot: r\nboxes: 5", "boxes: 5 is not allowed: it must be text in YAML"),
        ("robot: r\nboxes: '[{name: a}]'", "boxes.0.corner: Field required"),
        ("robot: r\nboxes: '[{'", "parameters of thing: while parsing"),
    ],
)
def test_a_wrong_value_refuses_to_start_and_is_named(started: Declare, content: str, named: str) -> None:
    """Hazard: a NaN, a `yes` or a value out of range becomes a limit of the safety filter."""
    with pytest.raises(ConfigError, match=re.escape(named)), started(content):
        pass


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("robot: r\ninner: {hertz: 5.0, hz: 4.0}", "no 'inner.hertz' (did you mean inner.hz"),
        ("robot: r\nhz: 5.0", "no 'hz' (did you mean inner.hz?)"),
        (
            "robot: r\nmodes: fast\nxyzzy: 1",
            "'modes' (did you mean mode or names?), 'xyzzy'; there are boxes, count,",
        ),
    ],
)
def test_a_misspelt_parameter_refuses_to_start(started: Declare, content: str, said: str) -> None:
    """Hazard: ROS ignores a parameter that nobody declares. Whoever writes `motion.max_sped_m_s: 0.05` gets the default
    and believes the arm to be slow."""
    with pytest.raises(ConfigError, match=re.escape(said)), started(content):
        pass


def test_ros_own_parameters_are_no_misspelling(started: Declare) -> None:
    with started("robot: r\nstart_type_description_service: false") as (node, _):
        parameters.refuse_unknown(node)


def test_a_change_is_refused_with_the_reason(started: Declare) -> None:
    """What `ros2 param set` prints. The value stays what it was, and the node lives: an exception in this callback ends
    the safety filter."""
    with started("robot: r") as (node, _):
        seen: list[Settings] = []

        def check(changed: list[Parameter]) -> Any:
            return parameters.accept(lambda: seen.append(parameters.read(node, Settings, changed)))

        node.add_on_set_parameters_callback(check)

        def change(name: str, value: Any) -> Any:
            # Over the wire and back: an array becomes another type on the way.
            sent = Parameter.from_parameter_msg(Parameter(name, value=value).to_parameter_msg())
            return node.set_parameters([sent])[0]

        assert change("inner.hz", 50).successful
        assert change("inner.joints", [1.0, 2.0]).successful
        assert seen[-1].inner == Inner(hz=50.0, joints=(1.0, 2.0))
        assert change("boxes", "[{name: a, corner: [0, 1]}]").successful
        assert seen[-1].boxes == (Box(name="a", corner=(0.0, 1.0)),)
        for name, value, reason in [
            ("inner.hz", 1000.0, "inner.hz: Input should be less than or equal to 100"),
            ("count", "many", "count: Input should be a valid integer"),
            ("boxes", 5, "boxes: 5 is not allowed"),
            ("boxes", ["a"], "boxes: ['a'] is not allowed"),
            ("flag", "perhaps", "flag: Input should be a valid boolean"),
        ]:
            result = change(name, value)
            assert not result.successful
            assert result.reason.startswith(f"parameters of thing: {reason}")
        assert node.get_parameter("inner.hz").value == 50
        assert len(seen) == 3


def test_description_and_range_are_shown(started: Declare) -> None:
    """What `ros2 param describe` prints: without unit and range nobody knows what to write."""
    with started("robot: r") as (node, _):
        described = {name: node.describe_parameter(name) for name in ("inner.hz", "mode", "robot", "count")}
    assert described["inner.hz"].description == "a rate [Hz]"
    assert described["inner.hz"].additional_constraints == "above 0, at most 100"
    assert described["mode"].additional_constraints == "slow or fast"
    assert described["robot"].additional_constraints == "not empty"
    assert described["count"].additional_constraints == "at least 1, below 10"


def test_units_of_the_safety_filter_are_shown(started: Declare) -> None:
    with started("", SafetyConfig) as (node, _):
        assert node.describe_parameter("motion.max_speed_m_s").additional_constraints == "above 0, at most 1.7 [m/s]"
