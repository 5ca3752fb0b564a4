"""Advice about caches on disk and about the operating system, followed."""

import os
import resource
import shutil

import numpy as np
import pytest

from kdcache.cache import open_cache
from kdcache.cache.paths import CachePaths
from kdcache.errors import Remedy
from kdcache.teacher.extract import extract
from tests.cache.support import forge, overwrite, rewrite_manifest
from tests.cli.advice.of_extraction import photos
from tests.cli.advice.world import TRAINING, Scenario, World, raises_once, small_cache, train_words
from tests.conftest import GROUP, flip_bit, tiny_add
from tests.test_durable import as_another_user


def repair(world: World, request: pytest.FixtureRequest) -> None:
    root = world.small_cache()
    flip_bit(root / GROUP / "blocks-1-patch-fp16" / "train-000000.tar", 4000)
    world.fails(Remedy.REPAIR, "verify", root)
    world.run(("verify", root, "--repair"))
    small_cache(root)
    world.works("verify", root)


def rebuild(world: World, request: pytest.FixtureRequest) -> None:
    root = world.copy(request.getfixturevalue("tiny_root"))
    overwrite(root / "manifest.json", b"{}")
    world.fails(Remedy.REBUILD, "show", root)
    world.goes("verify", root, "--rebuild")


def rebuild_or_delete_group(world: World, request: pytest.FixtureRequest) -> None:
    root = world.copy(request.getfixturevalue("groups_root"))
    overwrite(root / "wide" / "manifest.json", b"{}")
    world.fails(Remedy.REBUILD_OR_DELETE_GROUP, "verify", root)
    world.goes("verify", root, "--rebuild", "--group", "wide")
    overwrite(root / "wide" / "manifest.json", b"{}")
    shutil.rmtree(root / "wide")
    extract(tiny_add(root))
    world.works("verify", root)


def restore_base_or_delete_group(world: World, request: pytest.FixtureRequest) -> None:
    root = world.copy(request.getfixturevalue("groups_root"))
    rewrite_manifest(CachePaths(root).group("wide"), lambda manifest: manifest.update(base="0" * 64))
    world.fails(Remedy.RESTORE_BASE_OR_DELETE_GROUP, "verify", root)
    shutil.rmtree(root / "wide")
    extract(tiny_add(root))
    world.works("verify", root)


def remove_file(world: World, request: pytest.FixtureRequest) -> None:
    root = world.copy(request.getfixturevalue("tiny_root"))
    (root / "samples" / "train-000009.tar").write_bytes(b"x")
    world.fails(Remedy.REMOVE_FILE, "verify", root)
    (root / "samples" / "train-000009.tar").unlink()
    world.works("verify", root)


def other_teacher(world: World, request: pytest.FixtureRequest) -> None:
    root = world.copy(request.getfixturevalue("tiny_root"))
    cache = open_cache(root)
    column = cache.find_column(kind="patch", codec="fp32")
    strided = cache.strided(column, cache.manifest.shards[0])
    data, start = bytearray(strided.path.read_bytes()), strided.payload_offset(0)
    values = np.frombuffer(data, "<f4", strided.layout.payload_bytes // 4, start) * np.float32(1.1)
    data[start : start + strided.layout.payload_bytes] = values.tobytes()
    forge(root, "train-000000", column.name, bytes(data))
    # The checksums find it too, and without a fault of theirs only.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdcache.cli.verify._check", lambda *_, **__: [])
        world.fails(Remedy.OTHER_TEACHER, "verify", root, "--rerun-teacher", "1")
    world.works("verify", world.small_cache(), "--rerun-teacher", "1")


def update(world: World, request: pytest.FixtureRequest) -> None:
    """The next kdcache is this one with another number."""
    root = world.copy(request.getfixturevalue("tiny_root"))
    world.patch.setattr("kdcache.cache.manifest.FORMAT_VERSION", 1)
    world.fails(Remedy.UPDATE, "show", root)
    world.patch.setattr("kdcache.cache.manifest.FORMAT_VERSION", 2)
    world.works("show", root)


def name_held(world: World, request: pytest.FixtureRequest) -> None:
    root = request.getfixturevalue("tiny_root")
    world.fails(Remedy.NAME_HELD, "show", root, "--group", "wide")
    world.works("show", root, "--group", GROUP)


def allow_more_files(world: World, request: pytest.FixtureRequest) -> None:
    root = request.getfixturevalue("tiny_root")
    world.works("show", root)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = max(int(name) for name in os.listdir("/proc/self/fd"))  # noqa: PTH208
    fillers = [os.open("/dev/null", os.O_RDONLY) for _ in range(held + 1)]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(fillers) + 1, before[1]))
        world.fails(Remedy.ALLOW_MORE_FILES, "show", root)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for each in fillers:
            os.close(each)
    world.works("show", root)


def free_memory(world: World, request: pytest.FixtureRequest) -> None:
    from kdcache.cache import cache

    world.patch.setattr(cache, "open_cache", raises_once(MemoryError(), cache.open_cache))
    world.fails(Remedy.FREE_MEMORY, "show", request.getfixturevalue("tiny_root"))
    world.works("show", request.getfixturevalue("tiny_root"))


def allow_reading(world: World, request: pytest.FixtureRequest) -> None:
    root = world.copy(request.getfixturevalue("tiny_root"))
    path = root / "index" / "train-000000.h5"
    for folder in (root, *root.rglob("*"), *root.parents[:4]):
        folder.chmod(0o755)
    path.chmod(0)
    with as_another_user():
        world.fails(Remedy.ALLOW_READING, "bench", root, "--seconds", "0.1")
        with pytest.raises(PermissionError):
            path.read_bytes()
    path.chmod(0o644)
    with as_another_user():
        world.works("bench", root, "--seconds", "0.1")


def restore_file(world: World, request: pytest.FixtureRequest) -> None:
    data = photos(world.folder, num_broken=1)
    root = small_cache(world.folder / "c", data=str(data), limit=None, max_bad=0.5)
    ledger = root / "ledger" / "train-000000.json"
    held = ledger.read_bytes()
    overwrite(ledger, held.replace(b'"bad":', b'"worse":'))
    world.fails(Remedy.RESTORE_FILE, "show", root)
    overwrite(ledger, held)
    world.works("show", root)


def check_storage(world: World, request: pytest.FixtureRequest) -> None:
    from kdcache import storage

    opened = raises_once(OSError(5, "Input/output error"), os.open)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage.os, "open", opened)
        world.fails(Remedy.CHECK_STORAGE, "show", request.getfixturevalue("tiny_root"))
    world.works("show", request.getfixturevalue("tiny_root"))


def another_folder(world: World, request: pytest.FixtureRequest) -> None:
    root = world.copy(request.getfixturevalue("tiny_root"))
    world.fails(Remedy.ANOTHER_FOLDER, *train_words(root, root, "--codec", "fp16"))
    world.goes(*train_words(root, world.folder / "run", "--codec", "fp16"), until=TRAINING)


SCENARIOS: dict[Remedy, Scenario] = {
    Remedy.REPAIR: repair,
    Remedy.REBUILD: rebuild,
    Remedy.REBUILD_OR_DELETE_GROUP: rebuild_or_delete_group,
    Remedy.RESTORE_BASE_OR_DELETE_GROUP: restore_base_or_delete_group,
    Remedy.REMOVE_FILE: remove_file,
    Remedy.OTHER_TEACHER: other_teacher,
    Remedy.UPDATE: update,
    Remedy.NAME_HELD: name_held,
    Remedy.ALLOW_MORE_FILES: allow_more_files,
    Remedy.FREE_MEMORY: free_memory,
    Remedy.ALLOW_READING: allow_reading,
    Remedy.RESTORE_FILE: restore_file,
    Remedy.CHECK_STORAGE: check_storage,
    Remedy.ANOTHER_FOLDER: another_folder,
}
