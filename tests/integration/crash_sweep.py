"""Kills the writing of a small cache at every durable step, reruns it, and compares. Run as a program.

A process of its own, because it forks: imports stay few and single-threaded, so that hundreds of kills take seconds.
"""

import hashlib
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np

from kdcache import durable
from kdcache.cache.job import CacheJob
from kdcache.cache.manifest import Fingerprint, read_fingerprint, read_manifest
from kdcache.cache.sample import Sample
from kdcache.cache.writer import BadSample


def build(root: Path, fingerprint: Fingerprint) -> str:
    """Write (or go on writing) the cache; returns the manifest's sha256."""
    job = CacheJob(root, f"job {os.getpid()}")
    job.adopt(fingerprint)
    for shard in job.planned_shards():
        if job.is_done(shard.name):
            continue
        job.count_attempt(shard.name)
        with job.open_shard(shard.name) as writer:
            for number in range(shard.first, shard.first + shard.num_samples - 1):
                key, random = f"key-{number}", np.random.default_rng(number)
                views = fingerprint.views.num_views
                writer.add_sample(_sample(key, views, len(fingerprint.views.fields)), b"image" * 50, "pgm")
                values = {
                    column.tap: random.standard_normal((views, *column.shape)).astype(np.float32)
                    for column in fingerprint.columns
                }
                writer.add_records([(key, view) for view in range(views)], values)
            last = shard.num_samples - 1
            job.commit_shard(writer, [BadSample(last, f"key-{last}", f"key-{last}.pgm", "empty file")])
    job.finish()
    job.close()
    return read_manifest(job.paths)[1]


def _sample(key: str, views: int, fields: int) -> Sample:
    return Sample(
        key=key, source_key=f"{key}.pgm", label=1, source_sha256=hashlib.sha256(b"image" * 50).hexdigest(), size=(8, 8),
        mode="L", orientation=1, views=((0,) * fields,) * views, pixel_hashes=("00" * 16,) * views,
    )  # fmt: skip


def visible_files(root: Path) -> dict[str, str]:
    """Hash of every shard file under its final name."""
    files = [path for path in root.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {
        path.relative_to(root).as_posix(): durable.sha256_file(path)
        for path in files
        if path.suffix in (".tar", ".h5") or path.parent.name == "ledger"
    }


def in_child(root: Path, fingerprint: Fingerprint, kill_at: int) -> bool:
    """Build in a forked process that kills itself at the given step; returns whether it was killed."""
    pid = os.fork()
    if pid == 0:
        steps = 0

        def on_step(step: str, path: Path) -> None:
            nonlocal steps
            steps += 1
            if steps == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        durable.on_step = on_step
        build(root, fingerprint)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status):
        raise SystemExit(f"the build failed at step {kill_at}")
    return os.WIFSIGNALED(status)


def main(folder: Path, fingerprint_file: Path) -> None:
    """Sweep; prints the number of kills and what went wrong as JSON."""
    fingerprint = read_fingerprint(fingerprint_file.read_bytes(), where=str(fingerprint_file))
    in_child(folder / "whole", fingerprint, kill_at=0)
    expected, problems, kills = visible_files(folder / "whole"), [], 0
    digest = read_manifest(CacheJob(folder / "whole", "read").paths)[1]
    while True:
        root = folder / "cut"
        shutil.rmtree(root, ignore_errors=True)
        if not in_child(root, fingerprint, kill_at=kills + 1):
            break
        kills += 1
        seen = visible_files(root)
        if any(expected.get(name) != found for name, found in seen.items()):
            problems.append(f"step {kills}: a visible file is not what it should be")
        if (root / "manifest.json").exists() and seen != expected:
            problems.append(f"step {kills}: a manifest before its shards")
        in_child(root, fingerprint, kill_at=0)
        if read_manifest(CacheJob(root, f"read {kills}").paths)[1] != digest or visible_files(root) != expected:
            problems.append(f"step {kills}: the rerun gave another cache")
        if [path.name for path in root.rglob("*.tmp")]:
            problems.append(f"step {kills}: temporaries are left")
    print(json.dumps({"kills": kills, "problems": problems}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
