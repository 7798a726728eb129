"""An index on many nodes: what it should be, what is observed of it, and what is done about it."""
