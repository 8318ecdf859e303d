"""Viewer: a page in the browser that shows the arm, takes instructions, and stops it."""
