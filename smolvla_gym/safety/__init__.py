"""What stands between whatever is asked for and the arm, in the simulation and on the line."""

from smolvla_gym.safety.gate import SafetyEvent, SafetyGate, check_action

__all__ = ["SafetyEvent", "SafetyGate", "check_action"]
