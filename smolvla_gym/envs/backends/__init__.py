"""Backends of the environment: ``sim``, ``real`` and ``twin``.

A new one subclasses :class:`base.Backend` and passes each action through a ``SafetyGate``. A factory beside
``envs/make_sim.py`` makes it, ``smolvla_gym/__init__.py`` registers its id, ``cli/options/environment.py`` offers it.
"""
