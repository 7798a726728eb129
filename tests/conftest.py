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
import socket
import sys
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
os.environ["PATH"] += os.pathsep + os.path.dirname(sys.executable)  # promtool
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ.pop("RAY_ADDRESS", None)  # a cluster of whoever runs this
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
    "tests/cluster/bench/test_spread.py::test_the_command_plans",
    "tests/cluster/cli/test_documents.py::test_an_id_is_shown_and_deleted",
    "tests/cluster/cli/test_documents.py::test_ids_of_unknown_outcome",
    "tests/cluster/cli/test_errors.py::test_a_failure",
    "tests/cluster/cli/test_maintenance.py::test_a_job_whose_answer",
    "tests/cluster/cli/test_settings.py::test_all_mistakes_are_told",
    "tests/cluster/cli/test_settings.py::test_help_and_config",
    "tests/cluster/cli/test_settings.py::test_the_gateway_of",
    "tests/cluster/collection/test_collection.py::test_an_index_is_made_by",
    "tests/cluster/evaluation/test_doctor.py",
    "tests/cluster/evaluation/test_evaluate.py",
    "tests/cluster/fleet/test_decide.py::test_a_new_index_is_built",
    "tests/cluster/fleet/test_decide.py::test_whatever_happens_it",
    "tests/cluster/fleet/test_hydration.py",
    "tests/cluster/fleet/test_readiness.py::test_so_many_connections",
    "tests/cluster/ingest/test_build.py",
    "tests/cluster/ingest/test_create.py::test_all_that_looks_after",
    "tests/cluster/ingest/test_create.py::test_vectors_and_the_model",
    "tests/cluster/ingest/test_create.py::test_what_cannot_be_is_refused",
    "tests/cluster/ingest/test_create.py::test_with_a_model_glosses",
    "tests/cluster/ingest/test_datasource.py",
    "tests/cluster/ingest/test_preview.py::test_texts_are_counted",
    "tests/cluster/ingest/test_update.py",
    "tests/cluster/maintenance/test_aside.py::test_what_a_killed_run",
    "tests/cluster/maintenance/test_backup.py::test_a_backup_killed",
    "tests/cluster/maintenance/test_backup.py::test_a_restored_index",
    "tests/cluster/maintenance/test_backup.py::test_a_round_through",
    "tests/cluster/maintenance/test_backup.py::test_blocks_that_nothing",
    "tests/cluster/maintenance/test_export.py::test_an_export_can",
    "tests/cluster/maintenance/test_reshard.py::test_2_to_3_to_8",
    "tests/cluster/maintenance/test_reshard.py::test_any_history",
    "tests/cluster/maintenance/test_reshard.py::test_calibrated_anew_old_rows",
    "tests/cluster/maintenance/test_reshard.py::test_format_1_becomes",
    "tests/cluster/maintenance/test_reshard.py::test_it_is_calibrated_anew_at",
    "tests/cluster/maintenance/test_reshard.py::test_killed",
    "tests/cluster/maintenance/test_upgrade.py",
    "tests/cluster/maintenance/test_verify.py",
    "tests/cluster/serving/test_claim.py",
    "tests/cluster/serving/test_key_store.py",
    "tests/cluster/serving/test_launch_limits.py",
    "tests/cluster/serving/test_ray_cluster.py::test_a_cluster_of_our_own",
    "tests/cluster/serving/test_ray_cluster.py::test_ray_data_works",
    "tests/cluster/serving/test_ray_cluster.py::test_the_logs_of",
    "tests/cluster/serving/test_ray_cluster.py::test_what_ray",
    "tests/cluster/sources/test_json_values.py::test_any_layout_cut",
    "tests/cluster/sources/test_parquet.py::test_a_text_that_every_row",
    "tests/cluster/sources/test_parquet.py::test_values_that_rows",
    "tests/cluster/sources/test_readers.py::test_any_id_title_and",
    "tests/cluster/sources/test_sniffing.py::test_only_the_first_rows",
    "tests/cluster/sources/test_streams.py",
    "tests/cluster/sources/test_synthetic.py",
    "tests/cluster/sources/test_whole_columns.py::test_columns_and",
    "tests/config/test_settings.py::test_reading_settings",
    "tests/router/http/test_access.py::test_a_revoked_key",
    "tests/router/http/test_access.py::test_with_an_admin_port",
    "tests/router/http/test_admin.py::test_a_second_backup",
    "tests/router/http/test_admin.py::test_what_a_remote_store",
    "tests/router/http/test_answer_limits.py::test_more_hits_than",
    "tests/router/http/test_answer_limits.py::test_the_same_hits_without",
    "tests/router/http/test_answer_limits.py::test_the_worst_legal",
    "tests/router/http/test_cut_off.py",
    "tests/router/http/test_document_routes.py::test_one_bad_document",
    "tests/router/http/test_document_routes.py::test_too_many_documents",
    "tests/router/http/test_excluded.py::test_all_but_what_is_excluded",
    "tests/router/http/test_facets.py::test_a_shard_that_does_not",
    "tests/router/http/test_facets.py::test_values_are_counted_as_by_brute_force",
    "tests/router/http/test_filtered_search.py::test_answers_are_those",
    "tests/router/http/test_filtered_search.py::test_queries_with_other",
    "tests/router/http/test_gateway.py::test_importing_the_client",
    "tests/router/http/test_gateway.py::test_the_client_returns",
    "tests/router/http/test_groups.py::test_the_best_of_each_value",
    "tests/router/http/test_liked.py::test_the_query_is_moved_as_rocchio_says",
    "tests/router/http/test_metrics.py::test_a_silent_shard",
    "tests/router/http/test_metrics.py::test_what_shards_hold",
    "tests/router/http/test_multi_get.py::test_so_many_ids",
    "tests/router/http/test_page_keys.py",
    "tests/router/http/test_page_troubles.py",
    "tests/router/http/test_page_views.py",
    "tests/router/http/test_protocol.py::test_a_thousand_and_one_silent",
    "tests/router/http/test_request_limits.py::test_whatever_the_writer",
    "tests/router/http/test_request_ram.py",
    "tests/router/http/test_search_batch.py::test_a_body_is_cut_where",
    "tests/router/http/test_search_cursor.py::test_a_hit_never_comes",
    "tests/router/http/test_search_cursor.py::test_where_deeper_pages",
    "tests/router/http/test_sorted.py::test_a_page_has_so_many_bytes_at_most",
    "tests/router/http/test_sorted.py::test_pages_are_in_order_while",
    "tests/router/http/test_sorted.py::test_what_is_not_changed_comes",
    "tests/router/http/test_tls_door.py",
    "tests/router/http/test_totals.py::test_the_total_is_that_of_brute",
    "tests/router/http/test_unpacking.py::test_a_stream_of_documents",
    "tests/router/model/test_encoder.py",
    "tests/router/model/test_graph_cache.py",
    "tests/router/model/test_kept.py",
    "tests/router/model/test_tokens.py",
    "tests/router/shards/test_breaker.py::test_searches_of_a_stopped",
    "tests/router/shards/test_breaker.py::test_writes_to_a_silent",
    "tests/router/shards/test_convergence.py::test_any_histories_end",
    "tests/router/shards/test_examination.py::test_every_replica_may",
    "tests/router/shards/test_fanout.py::test_exhaustive_queries",
    "tests/router/shards/test_ray_calls.py",
    "tests/router/shards/test_remote.py",
    "tests/router/shards/test_replica_set.py",
    "tests/router/shards/test_replicas_on_ray.py",
    "tests/router/test_json_scan.py::test_cutting_and",
    "tests/router/test_loop_lag.py",
    "tests/router/test_router_actor.py::test_a_router_says",
    "tests/router/test_search_options.py::test_an_option_arrives_the",
    "tests/router/test_search_options.py::test_the_words_of_a_search_need",
    "tests/router/test_service.py::test_few_shards_send_their_likely",
    "tests/router/test_service.py::test_splitting",
    "tests/router/write/test_replica_writes.py::test_a_document_is_read",
    "tests/router/write/test_replica_writes.py::test_a_replica_that_lacks_a_write",
    "tests/router/write/test_replica_writes.py::test_whatever_fails",
    "tests/router/write/test_service.py::test_calls_leave",
    "tests/router/write/test_writes_model.py::TestWrites::runTest",
    "tests/shard_worker/bits/test_hamming.py::test_each_thread_that",
    "tests/shard_worker/fields/test_index.py::test_a_store_without",
    "tests/shard_worker/fields/test_index.py::test_filters_on_fields",
    "tests/shard_worker/fields/test_index.py::test_whatever_befalls",
    "tests/shard_worker/fields/test_segment.py::test_what_it_says",
    "tests/shard_worker/maintenance/test_verify.py::test_a_damaged_file",
    "tests/shard_worker/maintenance/test_verify.py::test_a_flipped_bit",
    "tests/shard_worker/search/test_approximate.py::test_searches_and_writes",
    "tests/shard_worker/search/test_filtered.py::test_a_search_sees",
    "tests/shard_worker/search/test_filtered.py::test_every_selectivity",
    "tests/shard_worker/search/test_filtered.py::test_matches_that_are_one",
    "tests/shard_worker/search/test_listing.py::test_pages_hold_each",
    "tests/shard_worker/store/test_breach.py::test_the_environment",
    "tests/shard_worker/store/test_claims.py",
    "tests/shard_worker/store/test_lmdb_btree.py::test_each_damaged",
    "tests/shard_worker/store/test_versions.py",
    "tests/shard_worker/test_operations.py::test_a_compaction_changes",
    "tests/shard_worker/test_operations.py::test_copies_that_get_the",
    "tests/shard_worker/test_shard.py::test_a_second_process",
    "tests/shard_worker/test_shard.py::test_a_shard_process_loads",
    "tests/shard_worker/test_shard.py::test_the_disk_holds_little",
    "tests/shard_worker/test_state_machine.py",
    "tests/shard_worker/test_writes.py::test_a_full_map",
    "tests/shard_worker/wire/test_wire.py::test_whatever_a_document",
    "tests/test_docs.py::test_a_command_of_a_page_exists_with_its_options",
    "tests/test_limits.py::test_every_constant_that_is_named_as_a",
    "tests/test_packaging.py",
    "tests/test_waits.py::test_a_wait_of_a_test_has_an_end",
    "tests/test_write_token.py::test_tokens_need",
    "tests/test_write_token.py::test_tokens_that_are_remembered_take_little_ram",
)
"""How the ids of the packages' own tests begin that it leaves out: those that start
Ray or another Python, load a model or need a disk, and those of half a second of processor or two
of waiting or more.
"""
_LACKING = "lacking"


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """pytest-rerunfailures tells its parent of each test and asks about the next: by Nagle's
    algorithm the question waits 40 ms for the answer to what needs none.
    """
    asked = getattr(getattr(config, "failures_db", None), "sock", None)
    if asked is not None:
        asked.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


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
