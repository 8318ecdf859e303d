"""Checks between a command and the arm, the same in the simulation and on the real arm."""

from smolvla_gym.safety.gate import Guard, SafetyGate, check_action
from smolvla_gym.safety.report import Intervention, Shaping, Violation

__all__ = ["Guard", "Intervention", "SafetyGate", "Shaping", "Violation", "check_action"]
