"""Kills the writing of a small cache at every durable step, reruns it, and compares. Run as a program.

A process of its own, because it forks: imports stay few and single-threaded, so that hundreds of kills take seconds.
"""

import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from kdcache import durable
from kdcache.cache.base import BaseFingerprint
from kdcache.cache.extraction import Extraction
from kdcache.cache.group import GroupFingerprint
from kdcache.cache.sample import Sample
from kdcache.cache.writer import BadSample

Groups = dict[str, GroupFingerprint]


def build(root: Path, base: BaseFingerprint, groups: Groups, *, writes_base: bool) -> None:
    """Write (or resume writing) a base and groups, or groups for a base that is there."""
    extraction = Extraction(root, base, groups, f"job {os.getpid()}", writes_base=writes_base)
    views = base.views.num_views
    for shard in extraction.planned():
        task = extraction.task(shard)
        if task is None:
            continue
        extraction.count_attempt(shard.name)
        writer = extraction.open_shard(task)
        for number in range(shard.first, shard.first + shard.num_samples - 1):
            key, random = f"key-{number}", np.random.default_rng(number)
            names = [(key, view) for view in range(views)]
            if writer.base is not None:
                writer.base.add_sample(_sample(key, views, len(base.views.fields)), b"image" * 50, "pgm")
            side = base.views.size
            pixels = random.integers(0, 256, (views, side, side, 3), dtype=np.uint8)
            for group in writer.groups.values():
                columns = {column.facts.tap: column.shape for column in group.columns.values()}
                values = {
                    tap: random.standard_normal((views, *shape)).astype(np.float32) for tap, shape in columns.items()
                }
                group.add_records(names, values)
                group.add_pixels(names, pixels, None)
        last = shard.num_samples - 1
        extraction.commit(writer, [BadSample(last, f"key-{last}", f"key-{last}.pgm", "empty file")])
    extraction.finish()
    extraction.close()


def _sample(key: str, views: int, fields: int) -> Sample:
    return Sample(
        key=key, source_key=f"{key}.pgm", label=1, source_sha256=hashlib.sha256(b"image" * 50).hexdigest(), size=(8, 8),
        mode="L", orientation=1, views=((0,) * fields,) * views, pixel_hashes=("00" * 16,) * views,
    )  # fmt: skip


def visible_files(root: Path) -> dict[str, str]:
    """Hash of every file under its final name, but for what only a running extraction needs."""
    return {
        path.relative_to(root).as_posix(): durable.sha256_file(path)
        for path in root.rglob("*")
        if path.is_file() and not path.name.startswith(".") and "job" not in path.relative_to(root).parts
    }


def in_child(work: Callable[[], None], kill_at: int) -> bool:
    """Work in a forked process that kills itself at the given durable step; returns whether it was killed."""
    pid = os.fork()
    if pid == 0:
        steps = 0

        def on_step(step: str, path: Path) -> None:
            nonlocal steps
            steps += 1
            if steps == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        durable.on_step = on_step
        work()
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status):
        raise SystemExit(f"the build failed at step {kill_at}")
    return os.WIFSIGNALED(status)


def sweep(
    work: Callable[[Path], None], start: Path | None, folder: Path, manifests: list[str]
) -> tuple[int, list[str]]:
    """Kill the work at every step and rerun it.

    Args:
        work: Writes below a folder.
        start: What lies there before it; None for nothing.
        folder: For the copies.
        manifests: Those that must come after the shards of their part: a name and, before it, the part.

    Returns: kills, and what went wrong.
    """
    whole, root = folder / "whole", folder / "cut"
    shutil.copytree(start, whole) if start else None
    in_child(lambda: work(whole), kill_at=0)
    expected, before = visible_files(whole), visible_files(start) if start else {}
    problems: list[str] = []
    kills = 0
    while True:
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(start, root) if start else None
        if not in_child(lambda: work(root), kill_at=kills + 1):
            break
        kills += 1
        seen = visible_files(root)
        if any(expected.get(name) != found for name, found in seen.items()):
            problems.append(f"step {kills}: a visible file is not what it should be")
        if any(seen.get(name) != found for name, found in before.items()):
            problems.append(f"step {kills}: a file that was there before has changed")
        for manifest in manifests:
            part = manifest.removesuffix("manifest.json")
            own = [name for name in expected if name.startswith(part) and name.endswith((".tar", ".h5"))]
            if manifest in seen and any(name not in seen for name in own if part or name.count("/") == 1):
                problems.append(f"step {kills}: {manifest} before its shards")
        in_child(lambda: work(root), kill_at=0)
        if visible_files(root) != expected:
            problems.append(f"step {kills}: the rerun gave another cache")
        if [path.name for path in root.rglob("*.tmp")]:
            problems.append(f"step {kills}: temporaries are left")
    return kills, problems


def main(folder: Path, plan_file: Path) -> None:
    """Sweep a pass that writes a base, a teacher's group and pixels, then an added group; prints the result as JSON."""
    plan = json.loads(plan_file.read_bytes())
    base = msgspec.convert(plan["base"], BaseFingerprint)
    groups = {name: msgspec.convert(each, GroupFingerprint) for name, each in plan["groups"].items()}
    first = {name: group for name, group in groups.items() if name != "wide"}
    added = {"wide": groups["wide"]}
    manifests = ["manifest.json", *(f"{name}/manifest.json" for name in first)]
    (folder / "pass").mkdir()
    (folder / "add").mkdir()
    kills, problems = sweep(lambda root: build(root, base, first, writes_base=True), None, folder / "pass", manifests)
    more, others = sweep(
        lambda root: build(root, base, added, writes_base=False),
        folder / "pass" / "whole",
        folder / "add",
        ["wide/manifest.json"],
    )
    print(json.dumps({"kills": [kills, more], "problems": problems + others}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
