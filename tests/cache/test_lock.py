import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kdcache.cache.lock import JobLock
from kdcache.errors import CacheBusyError

HOLD = """
import sys, time
from pathlib import Path
from kdcache.cache.lock import JobLock
lock = JobLock(Path(sys.argv[1]), sys.argv[2])
print("held", flush=True)
time.sleep(60)
"""


def test_another_job_is_refused_with_the_holder(tmp_path: Path) -> None:
    first = JobLock(tmp_path, "one")
    with pytest.raises(CacheBusyError, match=rf"host .+, pid {os.getpid()}, since \d{{4}}-"):
        JobLock(tmp_path, "two")
    first.close()
    second = JobLock(tmp_path, "two")
    assert second.holder.token != first.holder.token
    second.close()


def test_workers_of_one_job_share_its_token(tmp_path: Path) -> None:
    workers = [JobLock(tmp_path, "job") for _ in range(3)]
    assert [worker.is_first for worker in workers] == [True, False, False]
    assert len({worker.holder.token for worker in workers}) == 1
    workers[0].close()
    with pytest.raises(CacheBusyError):
        JobLock(tmp_path, "other")
    for worker in workers[1:]:
        worker.close()


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path, "one"], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(CacheBusyError, match=f"pid {holder.pid}"):
        JobLock(tmp_path, "two")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    time.sleep(0.05)
    JobLock(tmp_path, "two").close()


def test_children_do_not_keep_the_lock(tmp_path: Path) -> None:
    lock = JobLock(tmp_path, "one")
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
    try:
        time.sleep(0.2)  # until the child has become another program; before, it holds copies of everything
        lock.close()
        JobLock(tmp_path, "two").close()
    finally:
        child.kill()
        child.wait()


def test_a_superseded_worker_notices(tmp_path: Path) -> None:
    orphan = JobLock(tmp_path, "old")
    (tmp_path / "lock").unlink()  # as where flock does not reach: another machine thinks nobody is here
    successor = JobLock(tmp_path, "new")
    orphan_error = pytest.raises(CacheBusyError, match="another job writes")
    with orphan_error:
        orphan.check()
    successor.check()
    orphan.close()
    successor.close()


def test_a_worker_whose_folder_was_removed_notices_its_successor(tmp_path: Path) -> None:
    """Nothing that counts up from what is on disk can tell them apart: it begins again with the folder."""
    folder = tmp_path / "job"
    folder.mkdir()
    orphan = JobLock(folder, "one")
    shutil.rmtree(folder)
    folder.mkdir()
    successor = JobLock(folder, "one")
    with pytest.raises(CacheBusyError, match="another job writes"):
        orphan.check()
    successor.check()
    orphan.close()
    successor.close()


@pytest.mark.parametrize("record", [b"[]", b"{}", b'{"job_id":1}', b"\xff", b""])
def test_a_damaged_record_of_the_holder_is_nobody(tmp_path: Path, record: bytes) -> None:
    holder = JobLock(tmp_path, "one")
    (tmp_path / "holder.json").write_bytes(record)
    with pytest.raises(CacheBusyError, match="an unknown process"):
        holder.check()
    with pytest.raises(CacheBusyError, match="an unknown process"):
        JobLock(tmp_path, "one")
    holder.close()
    JobLock(tmp_path, "one").close()
