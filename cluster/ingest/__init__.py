"""Building an index: read, calibrate, encode, store."""
