"""The real devices: the arm's control board on a serial line and RealSense cameras."""
