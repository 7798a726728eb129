"""The shards as the router sees them: placement, calls, and collecting results."""
