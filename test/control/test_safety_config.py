"""The filter's parameters: ranges, contradictions, and the documentation that must say the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from mutants import generators, without_yield

from openvla_ros.control.safety import SafetyConfig, config
from openvla_ros.errors import ConfigError

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "safety.md"


CASES = (
    ({"motion": {"max_step_m": 7.0}}, "motion.max_step_m"),
    ({"motion": {"max_step_m": 0.0}}, "motion.max_step_m"),
    ({"motion": {"max_speed_m_s": float("nan")}}, "motion.max_speed_m_s"),
    ({"motion": {"max_speed_m_s": float("inf")}}, "motion.max_speed_m_s"),
    ({"motion": {"max_step_m": True}}, "motion.max_step_m"),  # YAML's `yes` would be one metre
    ({"motion": {"max_step": 0.05}}, "motion.max_step"),
    ({"workspace": {"lower_m": (0.5, -0.2, 0.0)}}, "workspace.lower_m"),
    ({"workspace": {"lower_m": (0.1, -0.2)}}, "workspace.lower_m"),
    ({"workspace": {"rotation_lower_rad": (0.0, 1.0, 0.0)}}, "workspace.rotation_lower_rad"),
    ({"workspace": {"rotation_upper_rad": (2.0, 2.0, 2.0)}}, "workspace.rotation_upper_rad"),
    ({"workspace": {"reference_quaternion": (0, 0, 0, 2)}}, "workspace.reference_quaternion"),
    ({"tracking": {"max_error_m": 0.01}}, "tracking.max_error_m"),
    ({"tracking": {"max_error_rad": 0.1}}, "tracking.max_error_rad"),
    ({"duration": {"min_s": 0.9, "max_s": 0.5}}, "duration.min_s"),
    ({"gripper": {"min": 0.8, "max": 0.2}}, "gripper.min"),
    ({"freshness": {"action_max_age_s": 2.0}}, "freshness.observation_max_age_s"),
    ({"watchdog": {"silence_s": 0.01}}, "watchdog.silence_s"),
    ({"contact": {"max_efforts_n_m": (1.0, 0.0)}}, "contact.max_efforts_n_m"),
    ({"keep_out": [{"name": "a", "lower_m": (0, 0, 0), "upper_m": (0, 1, 1)}]}, "keep_out 'a'"),
    ({"keep_out": [{"name": "a", "lower_m": (-9, -9, -9), "upper_m": (9, 9, 9)}]}, "keep_out 'a'"),
    ({"singularity": {"slow_down": 0.02, "stop": 0.02}}, "singularity.slow_down"),
    ({"collision": {"self_slow_down_m": 0.01, "self_stop_m": 0.02}}, "collision.self_slow_down_m"),
    ({"collision": {"obstacle_slow_down_m": 0.01, "obstacle_stop_m": 0.02}}, "collision.obstacle_slow_down_m"),
    ({"collision": {"obstacle_stop_m": 0.001}}, "collision.obstacle_stop_m"),
    ({"collision": {"table_z_m": -0.02}}, "collision.table_z_m"),  # its name once
    ({"whole_arm": {"lower_m": (0, 0, 0), "upper_m": (1, 0, 1)}}, "whole_arm.lower_m: must be below upper_m in y"),
    ({"collision": {"table_slow_down_m": 0.01, "table_stop_m": 0.02}}, "collision.table_slow_down_m"),
)


@pytest.mark.parametrize(("sections", "field"), CASES)
def test_a_wrong_or_contradictory_value_is_an_error_that_names_the_field(sections: dict[str, Any], field: str) -> None:
    """Hazard: a typo in a YAML file that silently leaves the default, or opens a limit."""
    with pytest.raises(ConfigError, match=re.escape(field)):
        SafetyConfig(**sections)


def is_noticed(sections: dict[str, Any], field: str) -> bool:
    try:
        SafetyConfig(**sections)
    except ConfigError as error:
        return field in str(error)
    return False


@pytest.mark.parametrize("number", [i for name, i in generators(config) if name == "_contradictions"])
def test_no_contradiction_can_be_left_out_unnoticed(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hazard: a check that is there and does nothing."""
    monkeypatch.setattr(config, "_contradictions", without_yield(config, "_contradictions", number))
    assert not all(is_noticed(*case) for case in CASES)


def test_a_configuration_cannot_be_changed_once_made() -> None:
    with pytest.raises(ValueError, match="frozen"):
        SafetyConfig().motion.max_step_m = 1.0  # type: ignore[misc]


def test_the_documented_parameters_are_the_real_ones() -> None:
    """Hazard: an operator who trusts a limit that the documentation alone has."""
    rows = re.findall(r"^\| `([a-z_.0-9]+)` \| (.+?) \| (.+?) \| (yes|no) \| (.+?) \|$", DOCUMENT.read_text(), re.M)
    documented = {name: (value, unit, live, text) for name, value, unit, live, text in rows}
    actual = {
        name: (shown(value), facts["unit"], "yes" if facts["live"] else "no", facts["description"])
        for name, value, facts in SafetyConfig().fields()
    }
    assert documented == actual


def shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(f"{v:g}" for v in value) or "none"
    return "none" if value is None else f"{value:g}"
