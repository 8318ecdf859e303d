"""Utilities that know nothing about robots: untrusted files, option values, locks, signals and worker processes."""
