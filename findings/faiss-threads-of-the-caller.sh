#!/usr/bin/env bash
# Package: faiss-cpu 1.15.1 (from PyPI), numpy 2.4.6. Bitsift is not used. Needs a machine of 2 cores or more.
#
# Behaviour: `faiss.omp_set_num_threads(1)` sets the number for the thread that calls it, and for no other: a thread that is
# started afterwards, or that ran already, still searches with all cores. A server that pins FAISS once, where it loads its index,
# and searches in a pool of threads has pinned nothing.
#
# Output seen: in the thread that pinned: 1. In a new thread, and in a pool: as many as there are cores. After pinning inside the
# pool's thread: 1 there, and that stays for its next task.
#
# One would have guessed: that it is a setting of the process, as its name and its place in the module suggest (and as
# `OMP_NUM_THREADS` is).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check faiss-cpu==1.15.1 numpy==2.4.6
env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT "$work/venv/bin/python" - <<'PYTHON'
import os
from concurrent.futures import ThreadPoolExecutor

import faiss

cores = len(os.sched_getaffinity(0))
assert cores > 1, "one core shows nothing"
with ThreadPoolExecutor(1) as early:
    early.submit(int).result()  # its thread runs before anything is pinned
    faiss.omp_set_num_threads(1)
    here = faiss.omp_get_max_threads()
    before = early.submit(faiss.omp_get_max_threads).result()
    with ThreadPoolExecutor(1) as late:
        after = late.submit(faiss.omp_get_max_threads).result()
        late.submit(faiss.omp_set_num_threads, 1).result()
        pinned = late.submit(faiss.omp_get_max_threads).result()
print(f"faiss {faiss.__version__}, {cores} cores; threads of a search after omp_set_num_threads(1):")
print(f"  where it was called {here}; a thread from before {before}; a thread from after {after}; pinned there {pinned}")
assert (here, before, after, pinned) == (1, cores, cores, 1), "the setting reaches other threads"
PYTHON
