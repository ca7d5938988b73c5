"""The safety filter: bounded commands from a model's actions, with a reason for every intervention."""

from openvla_ros.control.safety.config import SafetyConfig
from openvla_ros.control.safety.filter import Decision, SafetyFilter, State, Verdict

__all__ = ["Decision", "SafetyConfig", "SafetyFilter", "State", "Verdict"]
