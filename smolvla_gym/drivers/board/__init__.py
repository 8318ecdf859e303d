"""Driver of the PAROL6 control board on a serial line."""
