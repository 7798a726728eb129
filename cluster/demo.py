"""The demo: a reverse dictionary. Describe a thing, get the word."""

from __future__ import annotations

from pathlib import Path

from bitsift.cluster.ingest.build import Build, plan_build
from bitsift.cluster.ingest.options import BuildOptions
from bitsift.config.tree import DEFAULTS, Backend

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


def demo_build(folder: Path, backend: Backend = DEFAULTS.model.backend) -> Build:
    """What makes the demo index in ``folder``."""
    return plan_build([CORPUS], folder, BuildOptions(examples=EXAMPLES, backend=backend))
