#!/usr/bin/env bash
# Package: ray 2.60.0 (from PyPI), without the extra "default". Bitsift is not used. Linux.
#
# Behaviour: `ray start --dashboard-agent-listen-port=P` accepts the port, prints "Ray runtime started" and exits with 0, and the
# dashboard's agent runs, but nothing ever listens on P: the HTTP server of the agent needs aiohttp, which only ray[default]
# brings, and its absence is not reported. Manifests for Kubernetes commonly probe /api/local_raylet_healthz on this port; with
# the plain package such a probe never succeeds and a healthy pod is restarted again and again. The raylet's own port does listen.
#
# Output seen: exit status 0; after 15 s the agent's process runs, the agent's port refuses connections, the raylet's accepts them.
#
# One would have guessed: that the health port works, or that `ray start` fails or warns when it is asked for a port it cannot open.
set -euo pipefail
work=$(mktemp -d)
session=
stop() {
  [ -z "$session" ] || kill -- "-$session" 2>/dev/null || true
  sleep 2
  [ -z "$session" ] || kill -9 -- "-$session" 2>/dev/null || true
  rm -rf "$work"
}
trap stop EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check ray==2.60.0
export RAY_USAGE_STATS_ENABLED=0 RAY_AUTH_MODE=disabled
setsid "$work/venv/bin/ray" start --head --block --node-ip-address=127.0.0.1 --port=26379 --node-manager-port=28076 \
  --dashboard-agent-listen-port=25236 --include-dashboard=false --num-cpus=1 --object-store-memory=100000000 \
  --temp-dir="$work/ray" > "$work/log" 2>&1 &
session=$!
for _ in $(seq 60); do
  grep -q "Ray runtime started" "$work/log" && break
  sleep 1
done
grep -q "Ray runtime started" "$work/log" || { cat "$work/log"; exit 1; }
sleep 15
"$work/venv/bin/python" - "$session" <<'PYTHON'
import importlib.util
import os
import socket
import subprocess
import sys


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), 2).close()
    except OSError:
        return False
    return True


session = sys.argv[1]
commands = subprocess.run(["ps", "-s", session, "-o", "args="], capture_output=True, text=True).stdout
agent = "DashboardAgent" in commands or "dashboard/agent.py" in commands
found = (importlib.util.find_spec("aiohttp") is not None, agent, listens(25236), listens(28076))
print("aiohttp installed: %s; agent runs: %s; its port listens: %s; the raylet's port listens: %s" % found)
assert found == (False, True, False, True)
PYTHON
