"""placeholder"""
from __future__ import annotations
from pathlib import Path
from typing import Any


class Measured:
    @staticmethod
    def read(path: Path | None) -> Measured:
        return Measured()


def make_plan(*args: Any) -> Any:
    return None
