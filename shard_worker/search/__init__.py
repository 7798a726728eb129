"""A search inside a shard: from all rows to the few that are read, and which search goes first."""
