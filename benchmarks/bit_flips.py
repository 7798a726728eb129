"""500 random bits of an index, each flipped in a fresh copy: does an answer change silently?

And as many of those bits that lead LMDB to its data, of its meta pages and branch pages, of which a
random place would rarely be one. Needs a checkout: the index is that of the tests.

.venv/bin/python -m benchmarks.bit_flips
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bitsift.cluster.bench.machine import write_result
from tests.faults import flips
from tests.faults.flips import Flip

DOCUMENTS = 3_000


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bit_flips", description=__doc__)
    parser.add_argument("--places", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        index, copy = Path(folder) / "index", Path(folder) / "copy"
        flips.build_index(index, DOCUMENTS)
        expected = json.loads(json.dumps(flips.ask(index, DOCUMENTS)))
        anywhere = flips.places(index, options.places, options.seed)
        every = list(flips.structure(index))
        structure = random.Random(options.seed).sample(every, min(options.places, len(every)))
        result = {
            "documents": DOCUMENTS,
            "index_bytes": sum(path.stat().st_size for path in index.rglob("*") if path.is_file()),
            "questions": len(expected),
            "seed": options.seed,
            "random_places": _tried(index, copy, anywhere, expected),
            "places_that_lead_to_data": _tried(index, copy, structure, expected),
        }
    write_result(Path(__file__).with_name("results") / "bit_flips.json", result)
    print(json.dumps(result, indent=2))


def _tried(
    index: Path, copy: Path, places: Sequence[Flip], expected: dict[str, Any]
) -> dict[str, Any]:
    outcomes, files, notable = Counter[str](), Counter[str](), list[str]()
    for flip in places:
        outcome = flips.classify(index, copy, flip, DOCUMENTS, expected)
        word = outcome.split(":", 1)[0]
        outcomes[word] += 1
        files[Path(flip.name).name] += 1
        if word in (flips.SILENT, flips.KILLED) or "unexpectedly" in outcome:
            notable.append(f"{flip}: {outcome}")
    return {"flips": len(places), "by_file": files, "outcomes": outcomes, "notable": notable}


if __name__ == "__main__":
    main()
