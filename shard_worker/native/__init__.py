"""The inner loops of a search, compiled from C where a compiler was there; else numpy and FAISS."""
