"""Callers of the Service, from a pod's network: queries whose answers are known, and writes."""

from __future__ import annotations

import functools
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from tests.chaos.asking import Asking, Routers, Writes
from tests.fleets import CANDIDATES, Cluster
from tests.rehearsal.network import enter

DIMENSION = 384
"""Of all-MiniLM-L6-v2."""
QUESTIONS = (
    "a small boat with oars",
    "to speak without thinking",
    "fear of the dark",
    "the study of rocks",
    "a tool for cutting wood",
    "someone who cannot sleep",
    "the sound of a bell",
    "money paid for a crime",
)
MODES = ("auto", "exhaustive")


@dataclass(slots=True)
class Texts(Cluster):
    """Queries by text; what is right was answered before anything was done to the cluster."""

    def body(self, number: int, mode: str = "auto") -> dict[str, Any]:
        options = {} if mode == "exhaustive" else {"candidates": CANDIDATES}
        return {"query": QUESTIONS[number % len(QUESTIONS)], "top_k": 10, "mode": mode, **options}

    def answer(self, number: int, mode: str = "auto") -> list[str]:
        return self.expected[mode][number % len(QUESTIONS)]


@dataclass(frozen=True, slots=True)
class Callers:
    """In the network namespace ``space``, of the Service at ``url``, with a key."""

    space: str
    url: str
    key: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    def said(self, method: str, path: str, **more: Any) -> httpx.Response:
        """One request."""
        found: list[httpx.Response | Exception] = []

        def ask() -> None:
            enter(self.space)
            with httpx.Client(timeout=30, trust_env=False, headers=self.headers) as client:
                try:
                    found.append(client.request(method, f"{self.url}{path}", **more))
                except httpx.TransportError as error:
                    found.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join(600)
        (answer,) = found
        if isinstance(answer, Exception):
            raise answer
        return answer

    def truth(self) -> Texts:
        """What the queries are answered with now; each answer must be whole."""
        noise = np.random.default_rng(11).standard_normal((1, DIMENSION))
        texts = Texts(Path(), None, noise.tolist(), {})  # type: ignore[arg-type]
        for mode in MODES:
            texts.expected[mode] = []
            for number in range(len(QUESTIONS)):
                answer = self.said("POST", "/v1/search", json=texts.body(number, mode))
                assert answer.status_code == 200, answer.text
                assert not answer.json()["partial"], answer.json()["coverage"]
                texts.expected[mode].append([hit["id"] for hit in answer.json()["hits"]])
        return texts

    def asking(self, texts: Texts, per_s: float) -> Asking:
        go = functools.partial(enter, self.space)
        return Asking(texts, Routers([self.url]), per_s, headers=self.headers, enter=go)

    def writes(self, texts: Texts) -> Writes:
        go = functools.partial(enter, self.space)
        return Writes(texts, Routers([self.url]), headers=self.headers, enter=go)

    def lost(self, writes: Writes) -> list[str]:
        """What was acknowledged, and is not there."""
        found: list[str] = []

        def look() -> None:
            enter(self.space)
            found.extend(writes.lost(self.url))

        thread = threading.Thread(target=look)
        thread.start()
        thread.join(600)
        return found
