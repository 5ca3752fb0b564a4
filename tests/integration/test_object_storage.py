"""A cache on object storage: bytes and losses as on disk, through a bounded folder, on any network."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kdcache.cache import open_cache
from kdcache.cli.main import main
from kdcache.errors import StorageError
from kdcache.remote import RemoteFolder, RemoteUrl, Staging
from kdcache.remote.engine import client, engine
from kdcache.remote.staging import used_bytes
from kdcache.remote.store import ObjectStore
from tests.cli.support import extract_words, fails
from tests.cli.test_train import words as train_words
from tests.conftest import GROUP, file_hashes
from tests.forked import command
from tests.images.support import image_bytes, write_tar
from tests.object_storage import Faults, fault_proxy
from tests.train.support import losses


def objects(url: str) -> dict[str, bytes]:
    """All objects of a cache by name, without what a running extraction needs."""
    root = RemoteUrl.parse(url)
    store, found, folders = ObjectStore(root), dict[str, bytes](), [""]
    for folder in folders:
        files, below = store.list(f"{root.key}/{folder}".rstrip("/"))
        for name in files:
            data = store.read(f"{root.key}/{folder}{name}")
            assert data is not None
            found[folder + name] = data
        folders += [f"{folder}{name}/" for name in below if name != "job"]
    return found


def as_on_disk(url: str, disk: Path) -> bool:
    """Whether a cache on object storage consists of the files of one on disk, to the byte."""
    found = objects(url)
    return set(found) == set(file_hashes(disk)) and all((disk / name).read_bytes() == found[name] for name in found)


def upload(cache: Path, url: str) -> str:
    """Put a cache on disk below a URL, which is returned: its files are the objects of a cache there."""
    folder = RemoteFolder(RemoteUrl.parse(url), Staging.default())
    for path in sorted(cache.rglob("*")):
        if path.is_file() and (path.name == "plan.json" or "job" not in path.parts):
            folder.create(path.relative_to(cache).as_posix(), path)
    return url


def remove(url: str, *names: str) -> None:
    """Remove objects of a cache."""
    root = RemoteUrl.parse(url)
    engine().delete(client(root.scheme, root.bucket), [f"{root.key}/{name}" for name in names])


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of six shards."""
    root = tmp_path_factory.mktemp("disk") / "cache"
    assert main(extract_words(root, limit=22)) == 0
    return root


def bounded(monkeypatch: pytest.MonkeyPatch, folder: Path, max_bytes: int) -> Callable[[], int]:
    """Set the bound, watch the folder from now on; what is returned gives the most bytes seen and stops watching."""
    monkeypatch.setenv("KDCACHE_STAGING_SIZE", str(max_bytes))
    most, stop = [0], threading.Event()

    def watch() -> None:
        while not stop.is_set():
            # What is reserved for a shard that is being written takes no room itself.
            reserved = 0
            for path in (folder / "objects").glob("room-*"):
                with contextlib.suppress(FileNotFoundError):
                    reserved += path.stat().st_size
            most[0] = max(most[0], used_bytes(folder) - reserved)
            time.sleep(0.002)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()

    def end() -> int:
        stop.set()
        watcher.join()
        return most[0]

    return end


def test_every_verb_reads_it(bucket: str, on_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = upload(on_disk, f"{bucket}/caches/one")
    assert main(["verify", url]) == 0
    assert f"{url}: OK: 6 shards" in capsys.readouterr().out
    assert main(["show", url, "--picture", str(tmp_path / "record.png")]) == 0
    assert main(["bench", url, "--seconds", "0.1", "--batch-size", "4"]) == 0
    assert main(["analyze", url, "--out", str(tmp_path / "analysis")]) == 0
    assert main(["report", url, "--out", str(tmp_path / "report.html")]) == 0
    assert not (Path("s3:")).exists()


@pytest.mark.slow
def test_a_second_group_is_added(bucket: str, on_disk: Path, tmp_path: Path) -> None:
    url = upload(on_disk, f"{bucket}/two")
    before = objects(url)
    words = ["extract", "--add", "--teacher", "vit_tiny_patch16_224", "--teacher-weights", "random", "--group", "other"]
    words += ["--teacher-kwargs", "img_size=16", "patch_size=4", "embed_dim=24", "depth=1", "num_heads=3"]
    assert main([*words, "--out", url]) == 0
    after = objects(url)
    assert {name: after[name] for name in before} == before
    cache = open_cache(url)
    assert set(cache.groups) == {GROUP, "other"}
    assert main(["verify", url]) == 0


@pytest.mark.slow
def test_an_extraction_that_was_killed_goes_on(
    bucket: str, on_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGKILL when some shards are there: what counts is complete, and the rerun makes the bytes of a pass on disk."""
    url = f"{bucket}/killed"
    store = ObjectStore(RemoteUrl.parse(url))
    process = command(extract_words(url, limit=22))
    deadline = time.monotonic() + 120
    while len(store.list(f"killed/{GROUP}/index")[0]) < 2 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = objects(url)
    assert "manifest.json" not in done
    for name in [name for name in done if name.startswith("index/")]:
        assert f"samples/{Path(name).stem}.tar" in done
    assert main(extract_words(url, limit=22)) == 0
    assert as_on_disk(url, on_disk)
    shown = capsys.readouterr()
    assert f"next: kdcache verify {url}" in shown.out
    kept = [
        *objects(url).values(),
        *(path.read_bytes() for path in (tmp_path / "staging").rglob("*") if path.is_file()),
    ]
    assert not any(b"the-secret-of-the-tests" in each for each in (*kept, shown.out.encode(), shown.err.encode()))


@pytest.mark.parametrize(("uploads", "is_moved"), [(5, False), (8, True)])
@pytest.mark.slow
def test_uploads_that_break_off_go_on_here_and_on_another_machine(
    uploads: int,
    is_moved: bool,
    bucket: str,
    on_disk: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Between two files of a shard, between shards: the rest follows, and what is there is compared, not replaced."""
    url, create, done = f"{bucket}/broken", RemoteFolder.create, [0]

    def breaking(self: RemoteFolder, name: str, data: bytes | Path) -> None:
        done[0] += 1
        if done[0] > uploads:
            raise StorageError("the network is down")
        create(self, name, data)

    with monkeypatch.context() as broken:
        broken.setattr(RemoteFolder, "create", breaking)
        assert "the network is down" in fails(capsys, extract_words(url, limit=22))
    if is_moved:
        monkeypatch.setenv("KDCACHE_STAGING", str(tmp_path / "another machine"))
    assert main(extract_words(url, limit=22)) == 0
    assert as_on_disk(url, on_disk)


def test_another_plan_and_another_writer_are_refused(
    bucket: str, on_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = upload(on_disk, f"{bucket}/plans")
    assert "was begun with another plan" in fails(capsys, extract_words(url, "--codec", "fp32", limit=22))
    # Another job's shard lies where this one wants to put its own.
    folder = RemoteFolder(RemoteUrl.parse(f"{bucket}/race"), Staging.default())
    folder.create("samples/train-000000.tar", b"of another job")
    message = fails(capsys, extract_words(f"{bucket}/race", limit=6))
    assert "/race/samples/train-000000.tar: another job wrote other bytes" in message


@pytest.mark.slow
def test_damage_is_named_with_its_place(bucket: str, on_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = upload(on_disk, f"{bucket}/damaged")
    folder = RemoteFolder(RemoteUrl.parse(url), Staging.default())
    column = next(name for name in objects(url) if "patch" in name and name.endswith("000001.tar"))
    data = bytearray(folder.read(column) or b"")
    data[700] ^= 1
    folder.replace(column, bytes(data))
    folder.replace("ledger/train-000000.json", b"{}\n")
    folder.create("samples/stray.tar", b"")
    capsys.readouterr()
    for _ in range(2):  # what is here from the first time is no witness for what is there
        assert main(["verify", url]) == 1
        shown = capsys.readouterr().out
        assert f"{url}/{column}: bytes differ from what was written" in shown
        assert f"{url}/ledger/train-000000.json: 3 bytes found" in shown
        assert "samples/stray.tar: no manifest names this file" in shown
    assert "--rebuild reads all tars on a local disk" in fails(capsys, ["verify", url, "--rebuild"], code=2)
    remove(url, "samples/stray.tar")
    assert main(["verify", url, "--repair"]) == 1
    shown = capsys.readouterr().out
    assert f"images: 1 shard moved to {url}/job/damaged: train-000000" in shown
    assert f"{GROUP}: 1 shard moved to {url}/{GROUP}/job/damaged: train-000001" in shown
    left = objects(url)
    assert not {"manifest.json", "index/train-000000.h5", f"{GROUP}/manifest.json", column} & left.keys()
    place, name = column.removeprefix(f"{GROUP}/").split("/")
    assert folder.read(f"{GROUP}/job/damaged/{place}/{name}") == bytes(data)
    assert main(extract_words(url, limit=22)) == 0
    assert as_on_disk(url, on_disk)
    assert main(["verify", url]) == 0


@pytest.mark.slow
def test_damage_is_found_behind_a_good_copy_here(
    bucket: str, on_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A training run has brought the shards here; then one is damaged there, and one is gone."""
    url = upload(on_disk, f"{bucket}/later")
    assert main(["verify", url]) == 0
    folder = RemoteFolder(RemoteUrl.parse(url), Staging.default())
    damaged, gone = sorted(name for name in objects(url) if "patch" in name and name.endswith(".tar"))[:2]
    data = bytearray(folder.read(damaged) or b"")
    data[700] ^= 1
    folder.replace(damaged, bytes(data))
    remove(url, gone)
    capsys.readouterr()
    assert main(["verify", url]) == 1
    shown = capsys.readouterr().out
    assert f"{url}/{damaged}: bytes differ from what was written" in shown
    assert f"{url}/{gone}: missing" in shown


@pytest.mark.slow
def test_it_trains_as_from_disk_through_a_small_folder(
    bucket: str, on_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = upload(on_disk, f"{bucket}/train")
    settings = ["--epochs", "2", "--set", "log_every=1", "--set", "data.window=1"]
    assert main(train_words(on_disk, tmp_path / "disk", *settings)) == 0
    shard = sum(sum(facts.size_bytes for facts in each.files.values()) for each in open_cache(on_disk).manifest.shards)
    columns = sum(path.stat().st_size for path in (on_disk / GROUP).rglob("*.*"))
    room = (shard + columns) * 5 // 6 + 20_000
    end = bounded(monkeypatch, tmp_path / "staging", room)
    assert main(train_words(url, tmp_path / "remote", *settings)) == 0
    assert losses(tmp_path / "remote") == losses(tmp_path / "disk")
    assert end() <= room
    monkeypatch.setenv("KDCACHE_STAGING_SIZE", str(room // 3))
    message = fails(capsys, train_words(url, tmp_path / "small", *settings), code=2)
    assert "use a smaller window" in message


@pytest.mark.slow
def test_a_bad_network_changes_nothing(
    bucket: str, s3_endpoint: str, on_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10 % of the requests fail, 5 % stall: the same bytes, the same losses, and never more in staging than allowed."""
    url, settings = f"{bucket}/faults", ["--epochs", "2", "--set", "log_every=1"]
    assert main(train_words(on_disk, tmp_path / "disk", *settings)) == 0
    faults, room = Faults(failing=0.1, stalling=0.05, stall_s=0.6, seed=1), 3_000_000
    end = bounded(monkeypatch, tmp_path / "staging", room)
    with fault_proxy(s3_endpoint, faults) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy)
        monkeypatch.setenv("KDCACHE_REMOTE_TIMEOUT", "0.5")
        assert main(extract_words(url, limit=22)) == 0
        assert main(train_words(url, tmp_path / "remote", *settings)) == 0
    assert end() <= room
    assert losses(tmp_path / "remote") == losses(tmp_path / "disk")
    assert sum(faults.done.values()) - faults.done["pass"] > 10, faults.done
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("KDCACHE_REMOTE_TIMEOUT", "3")  # other clients than those of the proxy
    assert as_on_disk(url, on_disk)


def test_images_and_cache_both_lie_there(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tars through a folder that holds two of the three, a cache written beside them: the bytes of a pass on disk."""
    members = {f"{number}.{kind}": image_bytes(number, "PNG") if kind == "png" else b"3"
               for number in range(12) for kind in ("cls", "png")}  # fmt: skip
    names = sorted(members, key=lambda name: int(name.partition(".")[0]))
    folder = RemoteFolder(RemoteUrl.parse(f"{bucket}/data"), Staging.default())
    for part in range(3):
        tar = write_tar(tmp_path / f"x-{part}.tar", {name: members[name] for name in names[8 * part : 8 * part + 8]})
        folder.create(tar.name, tar)
    more = ["--order", "source", "--threads", "2"]
    assert main(extract_words(tmp_path / "disk", *more, data=f"{tmp_path}/x-{{0..2}}.tar", limit=None)) == 0
    room = 2 * (tmp_path / "x-0.tar").stat().st_size + 400_000
    end = bounded(monkeypatch, tmp_path / "staging", room)
    assert main(extract_words(f"{bucket}/out", *more, data=f"{bucket}/data/x-*.tar", limit=None)) == 0
    assert end() <= room
    assert as_on_disk(f"{bucket}/out", tmp_path / "disk")
