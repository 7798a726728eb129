"""The demo: a reverse dictionary. Describe a thing, get the word."""

from __future__ import annotations

from pathlib import Path

from cluster.ingest import Build, plan_build

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


def demo_build(folder: Path) -> Build:
    """What makes the demo index in ``folder``."""
    return plan_build([CORPUS], folder, examples=EXAMPLES)
