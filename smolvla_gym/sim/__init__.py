"""The simulated arm: scene, motion law, physics and pictures."""
