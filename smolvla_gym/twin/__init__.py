"""A virtual PAROL6 with its cameras: virtual devices below the drivers of the real ones."""
