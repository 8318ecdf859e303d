"""Recipe of the small policy shipped with this package."""
