"""Filters on ids and metadata: their tree, its two written forms, and what matches."""
