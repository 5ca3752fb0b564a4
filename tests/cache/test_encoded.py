from pathlib import Path

import numpy as np

from kdcache.cache import Cache
from kdcache.cache.encoded import EncodedRecords
from kdcache.cache.group_writer import GroupShardWriter
from kdcache.cache.paths import CachePaths
from kdcache.cache.statistics import Fidelity
from kdcache.cache.token_sums import sum_tokens
from kdcache.durable import sha256_file
from tests.conftest import GROUP

NAMES = [(f"k{number}", 0) for number in range(9)]


def test_records_encoded_elsewhere_make_the_same_shard(
    tiny_cache: Cache, tmp_path: Path, random: np.random.Generator
) -> None:
    """Batch by batch, the sampled records of each included."""
    group = tiny_cache.groups[GROUP]
    values = {
        column.tap: random.standard_normal((len(NAMES), *column.shape)).astype(np.float32) for column in group.columns
    }

    def encoded(rows: slice) -> dict[str, EncodedRecords]:
        found: dict[str, EncodedRecords] = {}
        for column in group.columns:
            if len(column.shape) == 2:
                given, codec, fidelity = values[column.tap][rows], column.make_codec(), Fidelity()
                fields = codec.encode(given)
                decoded = codec.decode(fields, tuple(column.shape))
                fidelity.update(given, decoded)
                sums = sum_tokens(decoded, with_moments=column.kind == "patch")
                found[column.facts.name] = EncodedRecords(column.facts.layout().pack(fields), sums, fidelity)
        return found

    hashes = []
    for name, elsewhere in (("here", False), ("there", True)):
        (tmp_path / name).mkdir()
        paths = CachePaths(tmp_path / name)
        with GroupShardWriter(
            paths, group.manifest.fingerprint, tiny_cache.manifest.fingerprint, "train-000000"
        ) as writer:
            for rows in (slice(0, 4), slice(4, 5), slice(5, 9)):
                given = {tap: each[rows] for tap, each in values.items()}
                writer.add_records(NAMES[rows], given, encoded(rows) if elsewhere else None)
            writer.commit()
        hashes.append({path.relative_to(paths.root): sha256_file(path) for path in paths.root.rglob("train*")})
    assert len(hashes[0]) == len(group.columns) + 1
    assert hashes[0] == hashes[1]
