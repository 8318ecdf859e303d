"""Driving the arm by hand: what keys and sticks mean, and the window in which one sees what one does."""
