"""Backends of the environment: ``sim``, ``real`` and ``twin``; a new one subclasses :class:`base.Backend`."""
