"""`kdcache extract --engine ray` as it is typed: a cluster of its own, actors killed from outside, Ctrl-C."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kdcache.cache import open_cache
from kdcache.cli.main import main
from tests.cli.support import extract_words
from tests.integration.test_object_storage import as_on_disk

pytest.importorskip("ray", reason="Ray is not installed")
pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
# Of starting and ending a cluster on a machine that others use.
LIMIT_S = 300


def start(out: Path | str) -> "subprocess.Popen[str]":
    """A pass on two actors in a process group of its own, as a terminal starts it."""
    engine = ["--engine", "ray", "--ray-actors", "2", "--ray-address", "local"]
    words = extract_words(out, *engine, limit=40)
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.Popen(
        [sys.executable, "-m", "kdcache", *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True,
    )  # fmt: skip


def parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def below(pid: int, ancestor: int) -> bool:
    while pid > 1 and pid != ancestor:
        pid = parent(pid)
    return pid == ancestor


def writing(driver: "subprocess.Popen[str]") -> int:
    """Waits for an actor that is inside a shard; its process."""
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end and driver.poll() is None:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                is_writing = path.read_bytes().startswith(b"ray::ShardActor.extract")
            except OSError:
                continue
            if is_writing and below(int(path.parent.name), driver.pid):
                return int(path.parent.name)
        time.sleep(0.01)
    raise AssertionError(driver.communicate()[0])


def test_an_actor_killed_from_outside_changes_no_object(bucket: str, tmp_path: Path) -> None:
    driver = start(f"{bucket}/c")
    os.kill(writing(driver), signal.SIGKILL)
    shown = driver.communicate(timeout=LIMIT_S)[0]
    assert driver.returncode == 0, shown
    assert "a Ray actor ended while it wrote shard train-0000" in shown
    assert "extract: 40/40 views" in shown
    assert main(extract_words(tmp_path / "c", limit=40)) == 0
    assert as_on_disk(f"{bucket}/c", tmp_path / "c")


def test_ctrl_c_ends_it_after_the_shards_that_are_written_and_one_process_resumes(tmp_path: Path) -> None:
    driver = start(tmp_path / "c")
    writing(driver)
    os.killpg(driver.pid, signal.SIGINT)
    shown = driver.communicate(timeout=LIMIT_S)[0]
    assert driver.returncode == 130, shown
    assert "stopped by signal 2 after" in shown
    assert "Traceback" not in shown
    assert list((tmp_path / "c" / "index").iterdir()), "what was being written was finished"
    assert main(extract_words(tmp_path / "c", limit=40)) == 0
    assert main(extract_words(tmp_path / "alone", limit=40)) == 0
    assert open_cache(tmp_path / "c").digest == open_cache(tmp_path / "alone").digest
