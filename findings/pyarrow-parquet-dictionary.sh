#!/usr/bin/env bash
# Package: pyarrow 26.0.1 (from PyPI). Bitsift is not used.
#
# Behaviour: the metadata of a Parquet row group has a field `total_byte_size`, described as the total uncompressed size of
# the group, and `iter_batches(batch_size=N)` reads N rows at a time. For a column whose rows share a value, the field
# counts the value once and each row some bits, while the batch holds the value once a row, and `to_pylist()` makes one
# Python string a row, also of a column that was read as a dictionary and so is small until then.
#
# Output seen: a file of 1.2 KB says 16 KB uncompressed; one batch of its 2,048 rows takes 33.6 MB, 2,000 times as much;
# read as a dictionary it takes 25 KB, and to_pylist() gives 2,048 different strings again.
#
# One would have guessed: that `total_byte_size` bounds what reading the group takes, so that dividing it by the rows
# gives a safe batch size; and that equal entries of a dictionary become one Python object.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check pyarrow==26.0.1
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import os

import pyarrow as pa
import pyarrow.parquet as pq

rows, text = 2_048, "words " * 2_731  # 16 KiB
pq.write_table(pa.table({"text": [text] * rows}), "shared.parquet")
file = pq.ParquetFile("shared.parquet")
on_disk, claimed = os.path.getsize("shared.parquet"), file.metadata.row_group(0).total_byte_size
(batch,) = file.iter_batches(batch_size=rows)
(small,) = pq.ParquetFile("shared.parquet", read_dictionary=["text"]).iter_batches(batch_size=rows)
strings = small.column("text").to_pylist()
print(f"pyarrow {pa.__version__}: {rows:,} rows of one text of {len(text):,} bytes")
print(f"  on disk {on_disk:,} bytes, total_byte_size {claimed:,}, one batch {batch.nbytes:,}")
print(f"  read as a dictionary {small.nbytes:,}; its to_pylist() holds {len(set(map(id, strings))):,} strings")
assert batch.nbytes > 500 * claimed, "total_byte_size is near to what a batch takes"
assert small.nbytes < 100 * on_disk, "a dictionary is no longer small"
assert len(set(map(id, strings))) == rows, "equal entries became one object"
PYTHON
