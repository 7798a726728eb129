"""What crosses between router and shard: versioned frames of typed structures."""
