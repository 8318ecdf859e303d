"""Recipe of the bundled policy: demonstrations of the scripted experts, imitation in memory, and DAgger."""
