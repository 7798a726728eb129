"""The field index of a shard: which rows pass a filter on ids and metadata.

    column.py   one field in one segment: its values in order, and where its rows are
    contents.py what a column holds, value by value, with the rows of each
    segment.py  up to 65,536 rows: the columns of their fields, and a catalog
    bounds.py   which rows of a segment pass, as far as it knows: a lower and an upper bound
    index.py    FieldIndex: segments and the rows behind them, kept up by housekeeping
    recent.py   ids and metadata of rows that are in no segment yet
    kept.py     what was found of filters

It owns nothing that cannot be made again from the documents, and decides nothing of how a search
goes (search/filtered.py). Invariants: what it says of a row is what ``bitsift.filters.matching``
says of the row's document, or that the document must be read; a row's document never changes, so
neither does what is known of it; rows of a segment are of one generation.
"""
