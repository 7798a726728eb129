"""Client and AsyncClient: Bitsift for programs. Loads neither ray nor faiss nor torch."""

from __future__ import annotations

from bitsift.client.clients import AsyncClient, Client

__all__ = ["AsyncClient", "Client"]
