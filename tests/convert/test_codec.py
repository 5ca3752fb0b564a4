from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kdcache.analysis.cache_tokens import _error_of
from kdcache.cache import open_cache
from kdcache.cache.cache import Cache
from kdcache.cache.group import GroupFingerprint
from kdcache.cache.job import Job
from kdcache.cache.paths import CachePaths
from kdcache.cache.rebuild import rebuild_group
from kdcache.cache.verify import verify_group_shard
from kdcache.convert.codec import CodecConversion, convert_codec
from kdcache.errors import BadRecordError, CacheMismatchError, CorruptCacheError, IncompleteCacheError, UsageError
from tests.conftest import GROUP, file_hashes, flip_bit
from tests.convert.support import killed_at


def conversion(root: Path, codec: str = "int8c", column: str | None = "blocks-1-patch-fp16") -> CodecConversion:
    return CodecConversion(cache=root, codec=codec, group=GROUP, columns=None if column is None else [column])


def decoded(cache: Cache, name: str) -> np.ndarray:
    """Every record of a column, (R, *shape)."""
    column = cache.column(name)
    shards = [cache.strided(column, shard).fields() for shard in cache.manifest.shards]
    return np.concatenate([column.make_codec().decode(fields, tuple(column.shape)) for fields in shards])


def test_a_column_becomes_what_the_codec_makes_of_its_decoded_values(cache_copy: Path) -> None:
    before = file_hashes(cache_copy)
    made = convert_codec(conversion(cache_copy))
    assert (made.name, made.num_shards, made.num_skipped) == (f"{GROUP}-int8c", 3, 0)
    after = file_hashes(cache_copy)
    assert {name: after[name] for name in before} == before, "nothing that was there was changed"
    cache = open_cache(cache_copy)
    source, found = (
        decoded(cache, name) for name in (f"{GROUP}/blocks-1-patch-fp16", f"{made.name}/blocks-1-patch-int8c")
    )
    codec = cache.column(f"{made.name}/blocks-1-patch-int8c").make_codec()
    np.testing.assert_array_equal(found, codec.decode(codec.encode(source), source.shape[1:]))
    group = cache.group(made.name)
    assert [each for shard in cache.manifest.shards for each in verify_group_shard(cache, group, shard)] == []


def test_it_says_what_its_errors_are_relative_to(cache_copy: Path) -> None:
    """int8 made of int8 is the same again: no further error, and what was lost before is not forgotten."""
    made = convert_codec(conversion(cache_copy, "fp32", "blocks-1-patch-int8"))
    cache = open_cache(cache_copy)
    source = cache.group(GROUP)
    [column] = made.manifest.columns
    assert made.manifest.columns[column].fidelity["centred_error"] == 0
    lost = source.manifest.columns["blocks-1-patch-int8"].fidelity["relative_error"]
    converted = made.manifest.fingerprint.converted
    assert converted is not None
    assert (converted.group, converted.manifest) == (GROUP, source.digest)
    assert converted.columns[column].relative_error == lost == made.manifest.teacher_error(column) > 0.001
    assert _error_of(cache, cache.column(f"{made.name}/{column}")) == lost
    again = convert_codec(CodecConversion(cache=cache_copy, codec="int8", group=made.name))
    [column] = again.manifest.columns
    assert again.manifest.teacher_error(column) == pytest.approx(
        lost + again.manifest.columns[column].fidelity["relative_error"]
    )


@pytest.mark.parametrize("step", [2, 5, 9, 14, 20])
def test_it_resumes_after_a_kill_with_the_bytes_of_an_undisturbed_one(
    cache_copy: Path, tmp_path: Path, step: int
) -> None:
    whole = convert_codec(replace(conversion(cache_copy), name="whole"))
    assert killed_at(step, lambda: convert_codec(conversion(cache_copy)))
    with pytest.raises(IncompleteCacheError):
        open_cache(cache_copy).group(f"{GROUP}-int8c")
    made = convert_codec(conversion(cache_copy))
    assert made.num_shards + made.num_skipped == 3
    wanted, found = (file_hashes(cache_copy / name) for name in ("whole", made.name))
    assert found == wanted
    assert made.manifest == whole.manifest
    assert convert_codec(conversion(cache_copy)).num_shards == 0


def test_several_columns_at_once_and_logits_too(cache_copy: Path) -> None:
    made = convert_codec(
        CodecConversion(cache=cache_copy, codec="topk=2", group=GROUP, columns=["head-logits-fp16"], name="few")
    )
    assert list(made.manifest.columns) == ["head-logits-topk2"]
    names = ["blocks-0-patch-fp32", "blocks-1-prefix-fp32"]
    both = convert_codec(CodecConversion(cache=cache_copy, codec="int8", columns=names, group=GROUP, name="both"))
    assert list(both.manifest.columns) == ["blocks-0-patch-int8", "blocks-1-prefix-int8"]


def test_it_is_rebuilt_from_its_tars(cache_copy: Path) -> None:
    made = convert_codec(conversion(cache_copy))
    before = file_hashes(cache_copy)
    paths = CachePaths(cache_copy)
    job = Job(paths.group(made.name), "rebuild", GroupFingerprint)
    try:
        assert rebuild_group(job, paths) == made.manifest
    finally:
        job.close()
    assert file_hashes(cache_copy) == before


def test_a_damaged_source_is_found_before_it_is_used(cache_copy: Path) -> None:
    flip_bit(cache_copy / GROUP / "blocks-1-patch-fp16" / "train-000001.tar", 5000)
    with pytest.raises(CorruptCacheError, match=r"train-000001\.tar: bytes differ"):
        convert_codec(conversion(cache_copy))


def test_a_codec_that_loses_too_much_is_refused(cache_copy: Path) -> None:
    with pytest.raises(BadRecordError, match=r"shard train-000000.*more than max_error, 0\.01"):
        convert_codec(replace(conversion(cache_copy, "int4"), max_error=0.01))
    assert f"{GROUP}-int4" not in open_cache(cache_copy).groups


def test_another_conversion_of_the_same_name_is_refused(cache_copy: Path) -> None:
    convert_codec(replace(conversion(cache_copy), name="small"))
    with pytest.raises(CacheMismatchError, match="was begun with another plan"):
        convert_codec(replace(conversion(cache_copy, "int8"), name="small"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"columns": None},
            r"holds blocks\.1/patch more than once; name the column to convert, one of blocks-1-patch-fp16",
        ),
        ({"columns": ["nothing"]}, "no column '.*nothing'"),
        ({"columns": ["head-logits-fp16"]}, "codec int8c stores features only"),
        (
            {"columns": ["blocks-1-prefix-fp32"]},
            "int8c stores 16 tokens a record or more.*name the other columns alone",
        ),
        ({"codec": "int5"}, "unknown codec 'int5'"),
        ({"codec": "topk"}, "needs the number of classes"),
        ({"group": "nobody"}, "no group 'nobody'"),
        ({"name": GROUP}, "is what is converted"),
    ],
    ids=str,
)
def test_what_cannot_be_converted(tiny_root: Path, changes: dict[str, object], message: str) -> None:
    before = file_hashes(tiny_root)
    with pytest.raises(UsageError, match=message):
        convert_codec(replace(conversion(tiny_root), **changes))
    assert file_hashes(tiny_root) == before


def test_pixels_have_no_codec_and_one_of_two_teachers_is_named(groups_root: Path) -> None:
    with pytest.raises(UsageError, match="group pixels holds pixels"):
        convert_codec(CodecConversion(cache=groups_root, codec="int8", group="pixels"))
    with pytest.raises(UsageError, match=f"It holds {GROUP}, wide; name one"):
        convert_codec(CodecConversion(cache=groups_root, codec="int8"))


@pytest.mark.parametrize("changes", [{"name": "Bad Name"}, {"name": "pixels"}, {"max_error": 0.0}], ids=str)
def test_settings_check_themselves(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"use lower-case letters|must be above 0"):
        replace(conversion(Path("c")), **changes)
