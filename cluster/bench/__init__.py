"""What this machine does, and what an index of a given size needs."""
