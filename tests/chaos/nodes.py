"""Ray nodes with real addresses on one machine, each of which can be killed, frozen and cut off.

Each node is in namespaces of its own: network (an address on a bridge), processes (Ray finds its
raylets by command lines in /proc) and mounts (its temporary folder, which Ray takes for the
machine's). The disk is shared; give each node a folder by its name. Needs root and iproute2: mark a
test with ``@pytest.mark.needs("namespaces")``.

    with chaos_nodes(["a", "b", "c"]) as nodes:
        nodes.drive([*COMMAND, "cluster", "up", …], 240)   # beside the head: a driver needs a node
        nodes.cut_off("b")                                 # its packets go nowhere, and none come
        nodes.make_mute("b")                               # its packets go nowhere, others come
        nodes.signal("c", signal.SIGSTOP)
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bitsift.cluster.serving.ray_environment import FAIL_OVER

START_S = 180
PORT = 6_379
CPUS = 4
STORE_BYTES = 100_000_000
_INSIDE = """
set -e
{mount} {temporary}
mount -t tmpfs tmpfs /dev/shm
ip link set lo up
exec {command}
"""


@dataclass(slots=True)
class ChaosNode:
    """One node: its address, and the process that is the first of its namespace."""

    name: str
    number: int
    address: str
    process: subprocess.Popen[bytes] | None = None

    @property
    def network(self) -> str:
        return f"bitsift-{os.getpid()}-{self.number}"

    @property
    def link(self) -> str:
        """Of the bridge's side; 15 characters at most."""
        return f"bs{os.getpid() % 1_000_000}v{self.number}"


@dataclass(slots=True)
class ChaosNodes:
    """The nodes by name; the first is the head."""

    folder: Path
    subnet: str
    environment: dict[str, str]
    kept: Path | None = None
    """Where Ray's files of each start of a node lie, with the logs; None: in RAM."""
    own: Mapping[str, dict[str, str]] = field(default_factory=dict)
    """What a node has in its environment beyond that, by its name."""
    nodes: dict[str, ChaosNode] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """Ray's, for drivers that ``run`` starts."""
        return f"{next(iter(self.nodes.values())).address}:{PORT}"

    # --- life ------------------------------------------------------------------------------

    def start(self, name: str, labels: Mapping[str, str] | None = None) -> None:
        """A node that is not there; one that was killed comes back at its address."""
        node = self.nodes[name]
        is_head = node.number == 1
        all_labels = ",".join(
            f"{k}={v}" for k, v in {"bitsift-node": name, **(labels or {})}.items()
        )
        ray = [
            sys.executable, "-m", "ray.scripts.scripts", "start", "--block",
            f"--node-ip-address={node.address}", f"--labels={all_labels}", f"--num-cpus={CPUS}",
            f"--object-store-memory={STORE_BYTES}",
            *(["--head", f"--port={PORT}", f"--temp-dir={self.temporary}",
               "--include-dashboard=false"] if is_head else [f"--address={self.address}"]),
        ]  # fmt: skip
        inside = _INSIDE.format(
            mount=self._mount(name), temporary=self.temporary, command=shlex.join(ray)
        )
        with (self.folder / f"{name}.log").open("ab") as log:
            node.process = subprocess.Popen(
                [
                    *("ip", "netns", "exec", node.network),
                    *("unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc"),
                    *("sh", "-c", inside),
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env=os.environ
                | self.environment
                | self.own.get(name, {})
                | (self._kept() if is_head else {}),
                cwd=Path(__file__).parents[2],
            )  # fmt: skip
        self._until_joined(node)

    def _mount(self, name: str) -> str:
        """The command that mounts Ray's temporary folder for a start of a node."""
        if self.kept is None:
            return "mount -t tmpfs tmpfs"
        place = self.kept / f"{name}-{time.strftime('%H%M%S')}"
        place.mkdir(parents=True)
        return f"mount --bind {shlex.quote(str(place))}"

    def _kept(self) -> dict[str, str]:
        """The head keeps Ray's control store on its disk, and comes back with it."""
        folder = self.folder / "gcs"
        folder.mkdir(exist_ok=True)
        return {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(folder)}

    @property
    def temporary(self) -> Path:
        """The same path on each node, and another file system: Ray names its session by it."""
        return self.folder / "ray"

    def _until_joined(self, node: ChaosNode) -> None:
        said = self.folder / f"{node.name}.log"
        deadline, before = time.monotonic() + START_S, said.stat().st_size
        while b"Ray runtime started" not in said.read_bytes()[before:]:
            assert node.process is not None
            assert node.process.poll() is None, said.read_text()
            assert time.monotonic() < deadline, said.read_text()
            time.sleep(0.2)

    def revive(self, name: str) -> None:
        """Start a node whose Ray has ended, as systemd does: for whoever was away for a minute, Ray
        ends itself.
        """
        process = self.nodes[name].process
        if process is not None and process.poll() is not None:
            self.start(name)

    def processes(self, name: str) -> list[int]:
        """Pids of all processes of a node, as this machine counts them."""
        first = self._first(name)
        return [] if first is None else [pid for pid in _pids() if _space(pid) == _space(first)]

    def actors(self, name: str, kind: str) -> list[int]:
        """Pids of the actors of a class on a node."""
        return [pid for pid in self.processes(name) if f"ray::{kind}" in _title(pid)]

    def programs(self, name: str, program: str) -> list[int]:
        """Pids of the processes of a node that run a file of this name."""
        return [pid for pid in self.processes(name) if _program(pid) == program]

    def _first(self, name: str) -> int | None:
        """The first process of the node's namespace: with it the kernel ends all others."""
        process = self.nodes[name].process
        if process is None or process.poll() is not None:
            return None
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            return int(children[0]) if children else None
        return None

    def signal(self, name: str, number: signal.Signals) -> None:
        """SIGKILL is a machine that lost power; SIGSTOP one that hangs, until SIGCONT."""
        if number is signal.SIGKILL:
            first, process = self._first(name), self.nodes[name].process
            if first is not None and process is not None:
                os.kill(first, signal.SIGKILL)
                process.wait(30)
            return
        for pid in self.processes(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    # --- the network -----------------------------------------------------------------------

    def cut_off(self, name: str, *others: str) -> None:
        """Nothing passes between a node and ``others``, all where none is named, either way.

        Nobody is told: packets vanish, and connections stay open.
        """
        for other in self._others(name, others):
            _block(self.nodes[name], other)
            _block(other, self.nodes[name])

    def make_mute(self, name: str) -> None:
        """Nothing that a node sends arrives, though it receives."""
        for other in self._others(name):
            _block(self.nodes[name], other)

    def make_deaf(self, name: str) -> None:
        """Nothing arrives at a node, though what it sends does."""
        for other in self._others(name):
            _block(other, self.nodes[name])

    def join_up(self, name: str, *others: str) -> None:
        """End ``cut_off``, ``make_mute`` and ``make_deaf``."""
        for other in self._others(name, others):
            _unblock(self.nodes[name], other)
            _unblock(other, self.nodes[name])

    def _others(self, name: str, others: Sequence[str] = ()) -> list[ChaosNode]:
        return [self.nodes[one] for one in others or self.nodes.keys() - {name}]

    # --- commands --------------------------------------------------------------------------

    def drive(
        self, command: Sequence[object], timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        """A command beside the head, to its end."""
        return self.inside(next(iter(self.nodes)), command, timeout_s)

    def inside(
        self, name: str, command: Sequence[object], timeout_s: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """A command in the namespaces of a node, to its end."""
        first = self._first(name)
        assert first is not None, f"node {name} does not run"
        enter = ["nsenter", f"--target={first}", "--net", "--pid", "--mount"]
        return subprocess.run(
            [*enter, f"--wd={Path(__file__).parents[2]}", *map(str, command)],
            capture_output=True, text=True, timeout=timeout_s, check=False,
            env=os.environ | self.environment,
        )  # fmt: skip


@contextlib.contextmanager
def chaos_nodes(
    names: Sequence[str],
    kept: Path | None = None,
    own: Mapping[str, dict[str, str]] | None = None,
) -> Iterator[ChaosNodes]:
    """Nodes that run; nothing of them is left but, where they are ``kept``, Ray's files."""
    folder = Path(tempfile.mkdtemp(prefix="bitsift-chaos-"))
    (folder / "ray").mkdir()
    environment = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_worker_niceness": "0",
        "RAY_raylet_start_wait_time_s": "120",  # on a busy machine 30 s are not enough
        **FAIL_OVER,
        "HOME": str(folder),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    subnet = f"10.{64 + os.getpid() % 64}.{os.getpid() // 64 % 256}"
    nodes = ChaosNodes(folder, subnet, environment, kept, own or {})
    bridge = f"bs{os.getpid() % 1_000_000}br"
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        _ip("link", "add", bridge, "type", "bridge")
        stack.callback(_ip, "link", "del", bridge)
        _ip("addr", "add", f"{subnet}.254/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for number, name in enumerate(names, 1):
            node = nodes.nodes[name] = ChaosNode(name, number, f"{subnet}.{number}")
            _ip("netns", "add", node.network)
            stack.callback(_ip, "netns", "del", node.network)
            _ip("link", "add", node.link, "type", "veth", "peer", "eth0", "netns", node.network)
            _ip("link", "set", node.link, "master", bridge, "up")
            inside = ("-n", node.network)
            _ip(*inside, "addr", "add", f"{node.address}/24", "dev", "eth0")
            _ip(*inside, "link", "set", "eth0", "up")
            stack.callback(nodes.signal, name, signal.SIGKILL)
        for name in names:
            nodes.start(name)
        yield nodes


def _ip(*arguments: str) -> None:
    command = ["ip", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, (arguments, done.stderr)


def _block(here: ChaosNode, there: ChaosNode) -> None:
    """What ``here`` sends to ``there`` goes nowhere; again changes nothing."""
    _ip("-n", here.network, "route", "replace", "blackhole", f"{there.address}/32")


def _unblock(here: ChaosNode, there: ChaosNode) -> None:
    route = f"{there.address}/32"
    inside = ("ip", "-n", here.network, "route")
    shown = subprocess.run([*inside, "show", route], capture_output=True, check=True, timeout=30)
    if shown.stdout:
        _ip(*inside[1:], "del", "blackhole", route)


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _title(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""


def _program(pid: int) -> str:
    return _title(pid).split("\0")[0].rsplit("/", 1)[-1]


def _space(pid: int) -> str | None:
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{pid}/ns/pid")
    return None
