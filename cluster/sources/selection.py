"""Which files of a folder are read, by their names and neighbours; the others are passed over.

* A test collection, in the layouts of BEIR and MTEB: of a folder that holds `corpus.jsonl`, or any
  `corpus` file or folder beside `queries` or `qrels`, only the corpus is read.
* A dataset saved by Hugging Face's `datasets`: the shards that `state.json` names, no caches.
* Text and Markdown files are documents in a folder of nothing but such files. Where there are
  tables too they are its README, licence and requirements.
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Iterable

import orjson

from bitsift.cluster.sources.json_files import no_records
from bitsift.cluster.sources.kinds import kind_of, unread
from bitsift.cluster.sources.listing import Found
from bitsift.cluster.sources.plan import Compression, Fields, Format, PassedOver
from bitsift.cluster.sources.sqlite import not_read
from bitsift.cluster.sources.streams import open_source

_BEIR = [f"corpus.jsonl{compression.value}" for compression in Compression]
"""The unpacked one first."""
_CORPUS = re.compile(r"(?:.+[-_.])?corpus(?:[-_.].+)?", re.IGNORECASE)
_JUDGED = re.compile(r"(?:.+[-_.])?(?:queries|query|qrels)(?:[-_.].+)?", re.IGNORECASE)
_STATE = "state.json"
_SHARD = ".arrow"
STATE_BYTES_MAX = 16 << 20
"""Of the description of a saved dataset; some 60 bytes a data file."""
_CACHE = re.compile(r"cache-[0-9a-f]+(?:_\d+_of_\d+)?\.arrow")
_DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json")


def select(listing: Iterable[Found], fields: Fields) -> tuple[list[Found], list[PassedOver]]:
    """The files of one folder that are read, and those that are not. Raises InvalidRequest."""
    passed: list[PassedOver] = []
    kept = list(listing)
    holds_none = functools.partial(no_records, fields=fields)
    for choice in (_beside_corpus, _saved_datasets, _endings, _databases, holds_none):
        reason = choice(kept)
        passed += [PassedOver(item.path, reason[item.path]) for item in kept if item.path in reason]
        kept = [item for item in kept if item.path not in reason]
    texts = [item for item in kept if kind_of(item.path)[0].is_whole_document]
    if len(texts) < len(kept):
        why = "a text file beside tables: name it, or a folder of texts alone, to index it"
        passed += [PassedOver(item.path, why) for item in texts]
        kept = [item for item in kept if not kind_of(item.path)[0].is_whole_document]
    return kept, passed


def _endings(items: list[Found]) -> dict[str, str]:
    return {item.path: reason for item in items if (reason := unread(item.name)) is not None}


def _databases(items: list[Found]) -> dict[str, str]:
    return not_read([item.path for item in items if kind_of(item.path)[0] is Format.SQLITE])


def _beside_corpus(items: list[Found]) -> dict[str, str]:
    """Everything in and below the outermost folder of a test collection but its corpus."""
    children: dict[str, set[str]] = defaultdict(set)
    for item in items:
        parts = item.name.split("/")
        for place, part in enumerate(parts):
            children["/".join(parts[:place])].add(part)
    corpora = {folder: found for folder, names in children.items() if (found := _corpus_of(names))}
    why = "not the corpus of a test collection: queries, judgements and the like"
    return {item.path: why for item in items if not _is_kept(item, corpora)}


def _corpus_of(names: set[str]) -> set[str]:
    """The entries of a folder that are the corpus; none where it is no test collection."""
    packed = [name for name in _BEIR if name in names]
    if packed:
        return {packed[0]}
    if not any(_JUDGED.fullmatch(name) for name in names):
        return set()
    return {name for name in names if _CORPUS.fullmatch(name) and not _JUDGED.fullmatch(name)}


def _is_kept(item: Found, corpora: dict[str, set[str]]) -> bool:
    parts = item.name.split("/")
    for place, part in enumerate(parts):
        corpus = corpora.get("/".join(parts[:place]))
        if corpus is not None:
            return part in corpus
    return True


def _saved_datasets(items: list[Found]) -> dict[str, str]:
    """What Hugging Face's `datasets` writes that is not data: descriptions and caches."""
    folders: dict[str, dict[str, Found]] = defaultdict(dict)
    for item in items:
        folder, _, name = item.name.rpartition("/")
        folders[folder][name] = item
    reasons: dict[str, str] = {}
    for beside in folders.values():
        described = [name for name in _DESCRIPTIONS if name in beside]
        reasons.update((beside[name].path, "the description of a dataset") for name in described)
        shards = _shards(beside[_STATE]) if _STATE in beside else None
        for name, item in beside.items():
            if shards is not None and name.endswith(_SHARD) and name not in shards:
                reasons[item.path] = f"not among the data files that {_STATE} names"
            elif described and _CACHE.fullmatch(name):
                reasons[item.path] = "a cache of the datasets library"
        if shards is not None:
            missing = ", ".join(sorted(shards - beside.keys()))
            lost = f"; {missing}, which it names, is not there" if missing else ""
            reasons[beside[_STATE].path] = f"the description of a saved dataset{lost}"
    return reasons


def _shards(state: Found) -> set[str] | None:
    """The names of the data files of a saved dataset; None for another `state.json`."""
    if state.size_bytes > STATE_BYTES_MAX:
        return None
    with open_source(state.path) as stream:
        content = stream.read()
    try:
        return {shard["filename"] for shard in orjson.loads(content)["_data_files"]}
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
