"""An index on many nodes: what it shall be, what is seen of it, and what is done about it."""
