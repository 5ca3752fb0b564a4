import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from kdcache.cache.record import RecordLayout
from kdcache.cache.shard import META_MEMBER, StridedShard, TarWriter, append_records, member_name, read_meta
from kdcache.errors import CorruptCacheError

LAYOUT = RecordLayout.structured({"values": ("|i1", (4, 3)), "scale": ("<f4", (4,))})
META = b'{"a":"fingerprint"}\n'
NAMES = [member_name(f"key-{sample}", view) for sample in range(3) for view in range(2)]


@pytest.fixture
def shard(tmp_path: Path, random: np.random.Generator) -> tuple[StridedShard, dict[str, np.ndarray]]:
    fields = {
        "values": random.integers(-127, 127, (6, 4, 3)).astype(np.int8),
        "scale": random.random((6, 4)).astype("<f4"),
    }
    tar = TarWriter(tmp_path / "shard.tar")
    append_records(tar, LAYOUT, NAMES[:4], LAYOUT.pack({name: each[:4] for name, each in fields.items()}))
    append_records(tar, LAYOUT, NAMES[4:], LAYOUT.pack({name: each[4:] for name, each in fields.items()}))
    tar.append(META_MEMBER, META)
    tar.commit()
    return StridedShard(tmp_path / "shard.tar", LAYOUT, 6, META), fields


def test_the_strided_view_equals_tar_and_numpy(shard: tuple[StridedShard, dict[str, np.ndarray]]) -> None:
    strided, fields = shard
    for name, values in strided.fields().items():
        np.testing.assert_array_equal(values, fields[name])
        assert values.strides[0] == LAYOUT.stride_bytes
        assert not values.flags.writeable
    with tarfile.open(strided.path) as tar:
        assert tar.getnames() == [*NAMES, META_MEMBER]
        for number, name in enumerate(NAMES):
            record = np.load(io.BytesIO(tar.extractfile(name).read()), allow_pickle=False)
            np.testing.assert_array_equal(record["values"], fields["values"][number])
            np.testing.assert_array_equal(record["scale"], fields["scale"][number])


def test_payload_offsets_are_addresses_in_the_file(shard: tuple[StridedShard, dict[str, np.ndarray]]) -> None:
    strided, fields = shard
    data = strided.path.read_bytes()
    offset = strided.payload_offset(5)
    assert data[offset : offset + 12] == fields["values"][5].tobytes()


def test_names_and_headers_are_compared(shard: tuple[StridedShard, dict[str, np.ndarray]]) -> None:
    strided, _ = shard
    strided.check_headers(NAMES)
    with pytest.raises(CorruptCacheError, match=r"'key-1.v00.npy', wanted 'other.v00.npy'"):
        strided.check_headers([*NAMES[:2], "other.v00.npy", *NAMES[3:]])
    with pytest.raises(CorruptCacheError, match="6 records found, 5 wanted"):
        strided.check_headers(NAMES[:5])


def test_a_foreign_npy_header_is_noticed(shard: tuple[StridedShard, dict[str, np.ndarray]]) -> None:
    strided, _ = shard
    strided.path.chmod(0o644)
    data = bytearray(strided.path.read_bytes())
    data[LAYOUT.stride_bytes * 2 + 512 + 20] ^= 1
    strided.path.write_bytes(data)
    with pytest.raises(CorruptCacheError, match="record 2"):
        strided.check_headers(NAMES)


def test_the_fingerprint_behind_the_records_is_compared(shard: tuple[StridedShard, dict[str, np.ndarray]]) -> None:
    strided, _ = shard
    assert read_meta(strided.path) == META
    other = StridedShard(strided.path, LAYOUT, 6, META.replace(b"fingerprint", b"foreignplan"))
    with pytest.raises(CorruptCacheError, match="not the fingerprint of this group"):
        other.check_headers(NAMES)


def test_a_wrong_size_is_an_error_and_no_signal(shard: tuple[StridedShard, dict[str, np.ndarray]]) -> None:
    strided, _ = shard
    strided.path.chmod(0o644)
    strided.path.write_bytes(strided.path.read_bytes()[:-512])
    with pytest.raises(CorruptCacheError, match=r"bytes found, \d+ wanted for 6 records"):
        strided.payloads()


def test_a_shard_without_records(tmp_path: Path) -> None:
    tar = TarWriter(tmp_path / "empty.tar")
    tar.append(META_MEMBER, META)
    tar.commit()
    strided = StridedShard(tmp_path / "empty.tar", LAYOUT, 0, META)
    assert strided.fields()["values"].shape == (0, 4, 3)
    strided.check_headers([])


def test_discarding_leaves_nothing(tmp_path: Path) -> None:
    tar = TarWriter(tmp_path / "shard.tar")
    tar.append("a", b"x")
    tar.discard()
    assert list(tmp_path.iterdir()) == []
