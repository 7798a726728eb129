"""Threads and processes of tests: waited for with an end. Benchmarks have them from there too."""

from bitsift.cluster.bench.threads import ENDS_WITHIN_S, ended, in_thread

__all__ = ["ENDS_WITHIN_S", "ended", "in_thread"]
