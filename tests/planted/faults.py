"""The nineteen faults of the first review, each put back into today's code, and who must notice.

The code in which they were found has other modules and other names: its tests would fail by their
imports. What was wrong can be wrong again, though, in one place or two.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Edit:
    """``old`` occurs once in ``path``."""

    path: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Fault:
    """``tests`` pass without ``edits``, and one of them at least fails with them."""

    name: str
    says: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]


FAULTS = (
    Fault(
        "B1", "after an error between a commit and the update of RAM, writes go on",
        (
            Edit(
                "shard_worker/store/commits.py",
                '            what = "RAM was not updated after a commit" if committed',
                "            if committed:\n"
                "                self.counters = counters\n"
                "                raise\n"
                '            what = "RAM was not updated after a commit" if committed',
            ),
        ),
        ("tests/shard_worker/store/test_breach.py",),
    ),
    Fault(
        "B2", "a backup removes whatever lies in its folder of blocks",
        (
            Edit(
                "shard_worker/maintenance/repository.py",
                "return {name for name in names if _BLOCK.fullmatch(name)}",
                "return names",
            ),
            Edit(
                "shard_worker/maintenance/repository.py",
                "                assert _BLOCK.fullmatch(name), name\n",
                "",
            ),
        ),
        ("tests/faults/test_foreign_files.py",),
    ),
    Fault(
        "B3", "a server that others reach needs no key",
        (
            Edit(
                "router/http/access.py",
                "if not (self.keys or self.insecure or is_loopback(address)):",
                "if False:",
            ),
        ),
        ("tests/router/http/test_access.py",),
    ),
    Fault(
        "B3, backups", "a backup over HTTP goes to any place",
        (
            Edit(
                "router/http/destinations.py",
                "if scheme != self.scheme or parts[: len(self.parts)] != self.parts:",
                "if False:",
            ),
        ),
        ("tests/router/http/test_destinations.py",),
    ),
    Fault(
        "B4", "an error without a text has no first line",
        (
            Edit(
                "bitsift/errors.py",
                'said = next((line.strip() for line in lines if line.strip()), "")',
                "said = lines[0].strip()",
            ),
        ),
        ("tests/test_errors.py",),
    ),
    Fault(
        "B4, shards", "what one shard raises is the call's",
        (
            Edit(
                "router/write/shard_writes.py",
                "asyncio.gather(*calls.values(), return_exceptions=True)",
                "asyncio.gather(*calls.values())",
            ),
        ),
        ("tests/router/write/test_service.py",),
    ),
    Fault(
        "B5", "an exhaustive search knows no deadline",
        (
            Edit(
                "shard_worker/search/exhaustive.py",
                "        waiting = [one for one in waiting if one.query.deadline.is_open()]\n",
                "",
            ),
        ),
        ("tests/shard_worker/test_deadlines.py",),
    ),
    Fault(
        "B6", "an answer has any number of bytes",
        (
            Edit(
                "router/answer_bytes.py",
                "    if size_bytes > ANSWER_BYTES_MAX:",
                "    if False:",
            ),
        ),
        ("tests/router/http/test_answer_limits.py",),
    ),
    Fault(
        "B7", "a write that may have been done is sent again",
        (
            Edit(
                "bitsift/client/retries.py",
                "return patient and not (writes and error.outcome is not RequestOutcome.NOT_DONE)",
                "return patient",
            ),
        ),
        ("tests/client/test_retries.py", "tests/client/test_client.py"),
    ),
    Fault(
        "B8", "a body is parsed before its parts are counted",
        (
            Edit(
                "router/write/incoming.py",
                "        if has_more_parts(text, DOCUMENT_PARTS_MAX):",
                "        if False:",
            ),
            Edit(
                "router/write/incoming.py",
                "    if has_more_parts(body, IDS_PARTS_MAX):",
                "    if False:",
            ),
        ),
        ("tests/router/write/test_incoming.py", "tests/router/http/test_request_ram.py"),
    ),
    Fault(
        "B9", "a packed file is unpacked in one step",
        (
            Edit(
                "cluster/sources/streams.py",
                "unpacker.decompress(data, BLOCK_BYTES)",
                "unpacker.decompress(data)",
            ),
        ),
        ("tests/cluster/sources/test_streams.py",),
    ),
    Fault(
        "B10", "headers have no end",
        (
            Edit(
                "router/http/protocol.py",
                "        if self._fields_bytes > self._limits.head_bytes_max:",
                "        if False:",
            ),
        ),
        ("tests/router/http/test_protocol.py",),
    ),
    Fault(
        "B10, time", "a head may come byte by byte, and idle connections count as work",
        (
            Edit(
                "router/http/protocol.py",
                "        for connection in list(self._open):\n"
                "            connection.check_times()\n",
                "",
            ),
            Edit(
                "router/http/protocol.py",
                "            oldest = next(iter(self._waiting))",
                "            oldest = connection",
            ),
        ),
        ("tests/router/http/test_protocol.py",),
    ),
    Fault(
        "B11", "a stream may send a byte a minute",
        (
            Edit(
                "router/http/pace.py",
                "self._behind_s = max(0.0, self._behind_s + waited_s - size_bytes / self._rate)",
                "self._behind_s = 0.0",
            ),
            Edit(
                "router/http/pace.py",
                "self._line_s = 0.0 if has_line else self._line_s + waited_s",
                "self._line_s = 0.0",
            ),
        ),
        ("tests/router/http/test_line_blocks.py",),
    ),
    Fault(
        "B12", "a shard that restarts takes its routers out of service",
        (
            Edit(
                "router/http/readiness.py",
                'status.state == "LOADING" and status.shard not in self._opened for',
                'status.state == "LOADING" for',
            ),
            Edit(
                "router/http/readiness.py",
                "self._was_ready = self._was_ready or enough",
                "self._was_ready = enough",
            ),
        ),
        ("tests/router/http/test_readiness.py",),
    ),
    Fault(
        "B13", "a start that fails on a cluster elsewhere leaves its actors there",
        (
            Edit(
                "cluster/serving/launch.py",
                "    except BaseException:\n"
                "        with shielded():\n"
                "            started.close()\n"
                "        raise\n",
                "    except BaseException:\n        raise\n",
            ),
        ),
        ("tests/cluster/serving/test_launch_limits.py",),
    ),
    Fault(
        "B14", "a damaged row that was replaced still counts",
        (
            Edit(
                "shard_worker/generation.py",
                "return int(np.count_nonzero(moment.is_alive(rows)))",
                "return len(rows)",
            ),
        ),
        ("tests/shard_worker/store/test_damaged_rows.py",),
    ),
    Fault(
        "B15", "any web page may start a compaction",
        (
            Edit(
                "router/http/gate.py",
                "        if origins:\n            return None if",
                "        if False:\n            return None if",
            ),
            Edit(
                "router/http/gate.py",
                'if scope["type"] == "http" and scope["method"] == "POST":',
                "if False:",
            ),
        ),
        ("tests/router/http/test_access.py",),
    ),
    Fault(
        "B16", "a hundred questions go on in one turn of the event loop",
        (Edit("router/turns.py", "        self._left = each\n", "        self._left = 1 << 30\n"),),
        ("tests/router/test_turns.py",),
    ),
    Fault(
        "B17", "one damaged document ends a load that goes on",
        (
            Edit(
                "shard_worker/store/admission.py",
                "        except Corrupt:\n            return WriteStatus.REJECTED, None\n",
                "        except Corrupt:\n            raise\n",
            ),
        ),
        ("tests/shard_worker/store/test_damaged_rows.py",),
    ),
    Fault(
        "B18", "a vector beside a text is dropped",
        (
            Edit(
                "bitsift/options.py",
                "        if len(given) > 1 or not (given or self.like):",
                "        if not (given or self.like):",
            ),
        ),
        ("tests/client/test_client.py", "tests/router/test_search_options.py"),
    ),
    Fault(
        "B19", "a shard is closed beneath its compaction",
        (
            Edit(
                "shard_worker/shard.py",
                "            for lock in (self._maintenance.lock, self._writes.lock):",
                "            for lock in ():",
            ),
        ),
        ("tests/shard_worker/test_close.py",),
    ),
)  # fmt: skip
