"""Maintenance of an index that is not being served, or of a copy of it."""
