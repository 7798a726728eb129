"""Maintenance of whole shards: verify, repair, backup."""
