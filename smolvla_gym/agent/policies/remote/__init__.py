"""Run a policy on another machine than the arm: the policy server and its client."""
