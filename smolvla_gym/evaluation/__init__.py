"""Evaluation of policies in the simulation: success rates, failure modes and their comparison.

``success`` has the success rate, its interval and the test of a difference; ``summary`` the figures of a condition;
``evaluate`` runs the episodes of ``conditions``, on one machine or a ``cluster``; ``journal`` keeps them;
``comparison`` makes tables and plots.
"""
