#!/usr/bin/env bash
# Package: ray[data] 2.60.0, pyarrow and pandas as pinned below (from PyPI). Bitsift is not used. Linux.
#
# Behaviour: Ray Data's log handler remembers the file of the first session of the process. `ray.shutdown()` and a second
# `ray.init()` do not change that: the second session's log goes to the first one's folder. Each `logging.config.dictConfig` (uvicorn
# calls it whenever a server starts) closes the file underneath, but from the second call on no longer the handler round it, because
# dictConfig forgets handlers that it has closed once, and the file inside is a new one each time. The next message then opens the path
# of the old session again. If that session's folder has been removed, which is right for a session that has ended, every dataset of
# the process fails with FileNotFoundError, raised by a log message.
#
# Output seen: first session 10, second session 10, third session FileNotFoundError: .../session_.../logs/ray-data/ray-data.log, where
# the path is that of the second session.
#
# One would have guessed: that each session logs into its own folder (the driver's other logs do), and that a log message that cannot be
# written is reported by `logging`, not raised into the iteration of a dataset.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check "ray[data]==2.60.0" "pyarrow==26.0.1" "pandas==3.1.1" "numpy==2.4.6"
cd "$work"
env -u RAY_ADDRESS RAY_USAGE_STATS_ENABLED=0 timeout 300 "$work/venv/bin/python" - <<'PYTHON'
import logging.config
import shutil

import ray
import ray.data


def session(number: int) -> str:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    folder = ray._private.worker.global_worker.node.get_session_dir_path()
    try:
        said = str(sum(row["id"] for row in ray.data.range(5).iter_rows()))
    except OSError as error:
        said = f"{type(error).__name__}, the path of this session: {folder in str(error)}"
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
    return said


seen = []
for number in (1, 2, 3):
    seen.append(session(number))
    print(f"session {number}: {seen[-1]}", flush=True)
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})
assert seen == ["10", "10", "FileNotFoundError, the path of this session: False"], seen
PYTHON
