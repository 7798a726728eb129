"""Settings for every test: nothing is fetched from a model hub, nothing is reported to anyone.

They are set here, before any test module is imported, because the libraries read them on import.
Processes that the tests start inherit them.

A test says by ``@pytest.mark.needs("strace")`` which programs it calls. Where one is missing, it
is skipped, and the summary says how many were and what to install; `make test` installs them all.

`make test` runs two files at a time (pytest-xdist), each file's tests in one process: many of them
wait. So nothing here may have a fixed port, name or place that another process would use too.
"""

import atexit
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
import trustme
from hypothesis import settings

from tests.programs import PACKAGES, is_here

if "PYTEST_XDIST_WORKER" not in os.environ:  # those use what their parent made
    _cache = tempfile.mkdtemp(prefix="bitsift-tests-")
    atexit.register(shutil.rmtree, _cache, ignore_errors=True)
    os.environ["XDG_CACHE_HOME"] = _cache  # converted models are not left with whoever runs this
    # httpx reads what this names for each `httpx.get`: of the usual 140 authorities, 20 ms a time.
    trustme.CA().cert_pem.write_to_path(os.path.join(_cache, "authority.pem"))
    os.environ["SSL_CERT_FILE"] = os.path.join(_cache, "authority.pem")
# A script's `make test &` ignores Ctrl-C, and so would all that the tests start and send it to.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OPENBLAS_NUM_THREADS"] = "1"  # more would spin for the other worker's core

# A busy machine is slow, not wrong. `make chaos` runs the thorough one.
settings.register_profile("any machine", deadline=None, max_examples=50)
settings.register_profile("thorough", deadline=None, max_examples=1_000)
settings.load_profile("any machine")

FAST = (
    "tests/shard_worker/", "tests/router/", "tests/cluster/", "tests/client/", "tests/config/",
    "tests/test_",
)  # fmt: skip
"""How the ids of the packages' own tests begin, which `make test-fast` runs, but for those in SLOW.
`make test` runs them first, in RAM, and then all others, on the disk.
"""
SLOW = (
    "tests/cluster/bench/test_disk.py::test_a_store_that_was_dropped",
    "tests/cluster/bench/test_memory.py::test_shared_memory_counts",
    "tests/cluster/bench/test_run.py",
    "tests/cluster/maintenance/test_aside.py::test_what_a_killed_run",
    "tests/cluster/maintenance/test_backup.py::test_a_backup_killed",
    "tests/cluster/serving/test_claim.py",
    "tests/cluster/cli/test_errors.py::test_a_failure_is_a_problem",
    "tests/cluster/cli/test_settings.py::test_all_mistakes_are_told",
    "tests/cluster/cli/test_settings.py::test_help_and_config",
    "tests/cluster/cli/test_settings.py::test_the_gateway_of",
    "tests/cluster/ingest/test_datasource.py",
    "tests/cluster/evaluation/test_doctor.py",
    "tests/cluster/evaluation/test_evaluate.py",
    "tests/cluster/maintenance/test_export.py::test_an_export_can_be_indexed_again",
    "tests/cluster/ingest/test_build.py",
    "tests/cluster/ingest/test_create.py::test_vectors_and_the_model",
    "tests/cluster/ingest/test_create.py::test_what_cannot_be_is_refused",
    "tests/cluster/ingest/test_preview.py::test_texts_are_counted",
    "tests/cluster/ingest/test_update.py",
    "tests/cluster/ingest/test_create.py::test_with_a_model_glosses",
    "tests/cluster/ingest/test_create.py::test_all_that_looks_after",
    "tests/cluster/maintenance/test_reshard.py::test_calibrated_anew_old_rows",
    "tests/cluster/maintenance/test_reshard.py::test_it_is_calibrated_anew_at",
    "tests/cluster/fleet/test_hydration.py",
    "tests/cluster/serving/test_key_store.py",
    "tests/cluster/serving/test_launch_limits.py",
    "tests/cluster/serving/test_ray_cluster.py::test_a_cluster_of_our_own",
    "tests/cluster/serving/test_ray_cluster.py::test_the_logs_of",
    "tests/cluster/serving/test_ray_cluster.py::test_ray_data_works",
    "tests/cluster/serving/test_ray_cluster.py::test_what_ray",
    "tests/cluster/sources/test_parquet.py::test_a_text_that_every_row",
    "tests/cluster/sources/test_streams.py",
    "tests/cluster/sources/test_synthetic.py",
    "tests/cluster/maintenance/test_reshard.py::test_2_to_3_to_8",
    "tests/cluster/maintenance/test_reshard.py::test_any_history",
    "tests/cluster/maintenance/test_reshard.py::test_killed",
    "tests/cluster/maintenance/test_upgrade.py",
    "tests/cluster/maintenance/test_verify.py",
    "tests/config/test_settings.py::test_reading_settings",
    "tests/router/http/test_admin.py::test_a_second_backup",
    "tests/shard_worker/bits/test_hamming.py::test_each_thread_that",
    "tests/shard_worker/fields/test_index.py::test_a_store_without",
    "tests/shard_worker/fields/test_index.py::test_whatever_befalls",
    "tests/shard_worker/search/test_filtered.py::test_a_search_sees",
    "tests/router/http/test_admin.py::test_what_a_remote_store",
    "tests/router/http/test_answer_limits.py::test_the_worst_legal",
    "tests/router/http/test_cut_off.py",
    "tests/router/http/test_gateway.py::test_importing_the_client",
    "tests/router/model/test_encoder.py",
    "tests/router/model/test_graph_cache.py",
    "tests/router/model/test_tokens.py",
    "tests/router/test_json_scan.py::test_cutting_and",
    "tests/router/shards/test_ray_calls.py",
    "tests/router/shards/test_remote.py",
    "tests/router/shards/test_replicas_on_ray.py",
    "tests/router/shards/test_replica_set.py",
    "tests/router/test_loop_lag.py",
    "tests/router/test_search_options.py::test_the_words_of_a_search_need",
    "tests/router/http/test_page_keys.py",
    "tests/router/http/test_page_views.py",
    "tests/router/http/test_page_troubles.py",
    "tests/router/http/test_request_ram.py",
    "tests/router/test_service.py::test_splitting",
    "tests/router/http/test_tls_door.py",
    "tests/router/write/test_service.py::test_calls_leave",
    "tests/shard_worker/search/test_approximate.py::test_searches_and_writes",
    "tests/shard_worker/store/test_breach.py::test_the_environment",
    "tests/shard_worker/store/test_claims.py",
    "tests/shard_worker/test_shard.py::test_a_second_process",
    "tests/shard_worker/test_shard.py::test_a_shard_process_loads",
    "tests/shard_worker/test_state_machine.py",
    "tests/shard_worker/maintenance/test_verify.py::test_a_flipped_bit",
    "tests/shard_worker/store/test_versions.py",
    "tests/shard_worker/test_writes.py::test_a_full_map",
    "tests/test_packaging.py",
    "tests/test_write_token.py::test_tokens_need",
)
"""How the ids of the packages' own tests begin that it leaves out: those that start
Ray or another Python, load a model or need a disk, and those that take longest of the rest.
"""
_LACKING = "lacking"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Files of slow tests alone are not even imported where those are left out: Ray Data, a model's
    libraries.
    """
    place = collection_path.relative_to(config.rootpath).as_posix()
    return True if config.getoption("markexpr").startswith("not slow") and place in SLOW else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not item.nodeid.startswith(FAST) or item.nodeid.startswith(SLOW):
            item.add_marker("slow")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test that needs a program which is not here."""
    needed = [name for mark in item.iter_markers("needs") for name in mark.args]
    needed += ["mount"] if "disk" in getattr(item, "fixturenames", ()) else []
    lacking = [name for name in needed if not is_here(name)]
    if lacking:
        item.user_properties.append((_LACKING, lacking))
        pytest.skip(f"needs {' and '.join(lacking)}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = [dict(report.user_properties) for report in terminalreporter.getreports("skipped")]
    lacking = [properties[_LACKING] for properties in skipped if _LACKING in properties]
    if lacking:
        packages = sorted({PACKAGES[name] for names in lacking for name in names})
        terminalreporter.write_line(
            f"{len(lacking)} tests were skipped because programs are missing; on Debian: "
            f"apt-get install {' '.join(packages)}",
            yellow=True,
        )
