"""Policies that compute action chunks: in this process, in another process, or on a server."""
