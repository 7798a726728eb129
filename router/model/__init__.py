"""The model: from text to unit vectors, for queries and for documents."""
