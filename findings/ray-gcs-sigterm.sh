#!/usr/bin/env bash
# Package: ray 2.60.0 (from PyPI). Bitsift is not used. Linux.
#
# Behaviour: SIGTERM makes Ray's GCS (gcs_server, the control store of a cluster) cancel all calls and answer none from then on,
# but the process does not end. A call that asks it (`ray.nodes()`) does not return. Whoever watches for the end of the process,
# as `Popen.poll()` does, sees a GCS that is alive.
#
# Output seen: before the signal it answers; 15 s after it the process is alive, and `ray.nodes()` has not returned after 10 s.
#
# One would have guessed: that it ends, as other servers do on SIGTERM, or that it goes on.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check ray==2.60.0
RAY_USAGE_STATS_ENABLED=0 "$work/venv/bin/python" - 2>/dev/null <<'PYTHON'
import os
import signal
import threading
import time

import ray

ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
processes = ray._private.worker._global_node.all_processes
gcs, raylet = (processes[kind][0].process for kind in ("gcs_server", "raylet"))


def answers(seconds):
    done = threading.Event()
    threading.Thread(target=lambda: (ray.nodes(), done.set()), daemon=True).start()
    return done.wait(seconds)


before = answers(10)
gcs.send_signal(signal.SIGTERM)
time.sleep(15)
alive, after = gcs.poll() is None, answers(10)
print(f"ray {ray.__version__}: answers before {before}; 15 s after SIGTERM the process is alive: {alive}, answers: {after}")
for process in (raylet, gcs):
    process.kill()
assert (before, alive, after) == (True, True, False)
os._exit(0)  # Ray's own end would wait for them
PYTHON
