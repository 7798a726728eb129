"""The demo: a reverse dictionary. Describe a thing, get the word."""

from __future__ import annotations

from pathlib import Path

from cluster.ingest import build_index
from cluster.ingest_progress import OnProgress
from cluster.manifest import BuildReport

CORPUS = Path(__file__).with_name("data") / "wordnet_en.jsonl.gz"
"""Open English WordNet, CC BY 4.0: see data/LICENSE-wordnet.md."""
EXAMPLES = (
    "fear of spiders",
    "someone who studies insects",
    "the feeling of having been here before",
    "instrument that measures air pressure",
    "to walk slowly and without aim",
    "a doctor for children",
    "the smell of rain on dry ground",
    "word that reads the same backwards",
)


def build_demo(folder: Path, on_progress: OnProgress) -> BuildReport:
    """The demo index in ``folder``; left untouched when it is finished."""
    return build_index([CORPUS], folder, examples=EXAMPLES, on_progress=on_progress)
