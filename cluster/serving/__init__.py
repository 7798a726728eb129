"""Serving an index: the Ray cluster, the actors on it, and their life."""
