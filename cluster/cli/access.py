"""Who may do what, by the settings of `bitsift serve` and `demo`; checked before anything
starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bitsift.cluster.cli.console import err
from bitsift.cluster.serving.configured import access_settings
from bitsift.config.tree import Settings

if TYPE_CHECKING:
    from bitsift.router.http.access import AccessSettings


def checked_access(settings: Settings) -> AccessSettings:
    """What they say, proven to be usable; warnings go to standard error.

    Raises InvalidRequest, NotFound, Corrupt.
    """
    serve = settings.serve
    access = access_settings(settings.access, serve)
    access.check(serve.host)
    for warning in access.warnings(serve.host):
        err.print(f"[yellow]warning:[/yellow] {warning}", soft_wrap=True)
    return access
