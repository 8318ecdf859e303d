"""A policy on one machine, the arm on another: a server, and a policy that asks it."""
