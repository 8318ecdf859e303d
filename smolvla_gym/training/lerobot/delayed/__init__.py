"""SmolVLA as a policy of LeRobot's own training that learns to continue given actions.

LeRobot finds its type with ``--env.discover_packages_path`` and its class by the names of these modules. Its
checkpoints are those of a plain SmolVLA.
"""
