"""Recipes that make the small policies shipped with this package. They need the extra ``smolvla``."""
