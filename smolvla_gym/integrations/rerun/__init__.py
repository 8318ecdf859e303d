"""Episodes in the Rerun viewer."""
