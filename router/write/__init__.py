"""Live writes: from the bytes of a request to the operations of the shards that own the ids."""
