"""Running an agent and writing down how it did."""
