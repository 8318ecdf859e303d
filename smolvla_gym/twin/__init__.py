"""A virtual PAROL6 with its cameras: the devices below the drivers, for everybody who has none."""
