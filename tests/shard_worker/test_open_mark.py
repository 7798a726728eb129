"""What the disk says of a replica that is open."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from bitsift.shard_worker.fencing import fence
from bitsift.shard_worker.open_mark import OpenMark, is_open, open_file
from tests.commands import wait_until
from tests.shard_worker.small_shard import CALIBRATION, IDENTITY, new_shard
from tests.shard_worker.test_actor_calls import plain_class

HOLDING = (
    "import sys, time\n"
    "from pathlib import Path\n"
    "from bitsift.shard_worker.open_mark import OpenMark\n"
    "mark = OpenMark(Path(sys.argv[1]))\n"
    "print('held', flush=True)\n"
    "time.sleep(60)\n"
)


def test_it_is_open_from_the_mark_to_its_release_and_looking_changes_nothing(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "shard-00003"
    assert not is_open(folder)
    mark = OpenMark(folder)
    assert is_open(folder)
    assert is_open(folder)
    mark.release()
    assert not is_open(folder)
    assert open_file(folder).exists()
    OpenMark(folder).release()


def test_the_kernel_takes_the_mark_of_a_process_that_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "shard-00003"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(folder)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert is_open(folder)
        process.send_signal(signal.SIGKILL)
    assert not is_open(folder)


def test_the_actor_of_a_replica_is_open_when_its_shard_is_and_until_it_closes(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "shard"
    arguments = str(folder), CALIBRATION.to_json(), IDENTITY, None
    waiting = plain_class()(*arguments, 0)
    assert not is_open(folder)  # there is no shard yet
    waiting.close()
    new_shard(folder).close()
    fence(folder, 4)
    actor = plain_class()(*arguments, 4)
    assert wait_until(lambda: is_open(folder), 10)
    assert actor._shard is not None
    actor.close()
    assert not is_open(folder)


def test_a_shard_of_which_there_is_one_copy_leaves_no_mark(tmp_path: Path) -> None:
    folder = tmp_path / "shard"
    new_shard(folder).close()
    actor = plain_class()(str(folder), CALIBRATION.to_json(), IDENTITY)
    assert wait_until(lambda: actor._shard is not None, 10)
    actor.close()
    assert not open_file(folder).exists()
