"""The ledgers of a base that is rebuilt: kept where they are proven, empty where they must be, else lost.

Which images are missing from a shard, and why, is not in its tar. A ledger is proven by its hash in an index or a
manifest that is still readable, or else by the digest over all keys of the plan, which is in every tar.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from kdcache.cache.base import BaseFingerprint, planned_shards
from kdcache.cache.facts import FileFacts
from kdcache.cache.job import read_ledger
from kdcache.cache.keys import keys_digest
from kdcache.cache.paths import LEDGER, CachePaths
from kdcache.cache.writer import BadSample, ledger_bytes
from kdcache.durable import sha256_file
from kdcache.errors import CorruptCacheError, Remedy

LOST = "its ledger was lost"


def is_lost(bad: Sequence[BadSample]) -> bool:
    """Whether a ledger only stands for one that was lost: positions and names in it mean nothing."""
    return any(each.reason == LOST for each in bad)


def plan_ledgers(
    paths: CachePaths,
    fingerprint: BaseFingerprint,
    known: Mapping[str, FileFacts],
    read_keys: Callable[[str], list[str]],
    *,
    accept_loss: bool,
) -> dict[str, bytes]:
    """Decide what becomes of every ledger; nothing is written.

    Args:
        paths: The base.
        fingerprint: From its tars.
        known: What an index or a manifest says of a shard's ledger.
        read_keys: Gives the source keys in the tar of a shard, in order.
        accept_loss: Put a ledger without names and reasons in place of one that cannot be made again.

    Returns: by shard, the bytes of ledgers that are to be written; the others are right as they are.
    Raises: CorruptCacheError for a ledger that cannot be made again.
    """
    new: dict[str, bytes] = {}
    keys: list[str] = []
    unproven: dict[str, int] = {}
    for shard in planned_shards(fingerprint):
        path, held = paths.shard(LEDGER, shard.name), read_keys(shard.name)
        num_bad = shard.num_samples - len(held)
        bad = _found(path, known.get(shard.name), num_bad)
        if bad is None and num_bad == 0:
            bad, new[shard.name] = [], ledger_bytes([])
        if bad is None:
            if not accept_loss:
                raise _refusal(path, num_bad)
            new[shard.name] = _lost(num_bad)
            continue
        if bad and shard.name not in known:
            unproven[shard.name] = num_bad
        keys += planned_keys(held, bad)
    lacking = any(is_lost_bytes(data) for data in new.values())
    if unproven and (lacking or keys_digest(keys) != fingerprint.source.keys_sha256):
        name, num_bad = next(iter(unproven.items()))
        if not accept_loss:
            raise _refusal(paths.shard(LEDGER, name), num_bad)
        new |= {name: _lost(num_bad) for name, num_bad in unproven.items()}
    return new


def planned_keys(held: Sequence[str], bad: Sequence[BadSample]) -> list[str]:
    """The source keys of a shard's plan, in order, from those in its tar and those in its ledger."""
    planned = list(held)
    for each in sorted(bad, key=lambda each: each.position):
        planned.insert(each.position, each.source_key)
    return planned


def is_lost_bytes(data: bytes) -> bool:
    """Whether the bytes are those of a ledger that only stands for a lost one."""
    return LOST.encode() in data


def _found(path: Path, facts: FileFacts | None, num_bad: int) -> list[BadSample] | None:
    """The bad images in a ledger that may be believed; None for another file or none."""
    if path.is_symlink() or not path.is_file():
        return None
    if facts is not None and sha256_file(path) != facts.sha256:
        return None
    try:
        bad = read_ledger(path)
    except CorruptCacheError:
        return None
    return bad if len(bad) == num_bad else None


def _lost(num_bad: int) -> bytes:
    return ledger_bytes([BadSample(position, "", "", LOST) for position in range(num_bad)])


def _refusal(path: Path, num_bad: int) -> CorruptCacheError:
    what = "is missing" if not path.is_file() else "is not what was written"
    return CorruptCacheError(
        f"{path}: {what}, and {num_bad} planned images are not in the tar of its shard: which ones and why is in "
        "no other file. Nothing was changed",
        remedy=Remedy.ACCEPT_LOSS,
    )
