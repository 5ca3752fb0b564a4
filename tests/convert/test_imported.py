from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from kdcache.cache import open_cache
from kdcache.cache.verify import verify_group_shard
from kdcache.convert.imported import Import, Imported, import_features
from kdcache.errors import BadRecordError, CacheMismatchError, UsageError
from kdcache.teacher.rerun import teacher_of_group
from tests.conftest import GROUP, TEACHER, TEACHER_KWARGS, file_hashes
from tests.convert.support import killed_at
from tests.convert.test_codec import decoded
from tests.convert.test_features import write_members

NAMES = ("cat/1", "cat/3", "cat/5", "dog/0", "dog/2", "dog/4")
SETTINGS = {"teacher_kwargs": TEACHER_KWARGS, "shard_samples": 2, "threads": 1, "cpu_threads": 1}


@pytest.fixture
def tokens(random: np.random.Generator) -> dict[str, np.ndarray]:
    """Class token and 16 patch tokens of each photo."""
    return {name: random.standard_normal((17, 24)).astype(np.float32) for name in NAMES}


@pytest.fixture
def job(tokens: dict[str, np.ndarray], photos: Path, tmp_path: Path) -> Import:
    """Patch tokens as a folder of .npy files."""
    for name, values in tokens.items():
        path = tmp_path / "features" / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, values[1:])
    return Import(
        features=tmp_path / "features",
        data=str(photos),
        out=tmp_path / "c",
        teacher=TEACHER,
        codec="fp32",
        settings=SETTINGS,
    )


def check(job: Import, made: Imported, tokens: dict[str, np.ndarray], column: str) -> None:
    """The cache holds these tokens beside their images and labels."""
    cache = open_cache(job.out)
    found = decoded(cache, f"{made.group}/{column}")
    keys = []
    for shard in cache.manifest.shards:
        index = cache.index(shard)
        for row in range(len(index)):
            sample = index.sample(row)
            keys.append(sample.source_key.rsplit(".", 1)[0])
            assert sample.label == (0 if keys[-1].startswith("cat") else 1)
    assert sorted(keys) == sorted(NAMES)
    np.testing.assert_array_equal(found, [tokens[key][-found.shape[1] :] for key in keys])
    group = cache.group(made.group)
    assert [each for shard in cache.manifest.shards for each in verify_group_shard(cache, group, shard)] == []


def test_a_folder_of_npy_files_becomes_a_cache(job: Import, tokens: dict[str, np.ndarray]) -> None:
    before = file_hashes(job.features)
    made = import_features(job)
    assert (made.group, made.num_shards, made.num_skipped) == (GROUP, 3, 0)
    check(job, made, tokens, "blocks-1-patch-fp32")
    assert made.manifest.fingerprint.columns[0].grid == [4, 4]
    assert made.manifest.columns["blocks-1-patch-fp32"].fidelity["centred_error"] == 0
    assert file_hashes(job.features) == before
    assert import_features(job).num_shards == 0


def test_tars_with_a_safetensors_file_a_sample_and_the_class_token_in_front(
    job: Import, tokens: dict[str, np.ndarray], tmp_path: Path
) -> None:
    data = {
        f"{name}.safetensors": safetensors.numpy.save({"x": values, "y": values[0]}) for name, values in tokens.items()
    }
    half = dict(list(data.items())[:3])
    (tmp_path / "tars").mkdir()
    write_members(tmp_path / "tars" / "0.tar", half)
    write_members(tmp_path / "tars" / "1.tar", {name: each for name, each in data.items() if name not in half})
    tars = replace(job, features=tmp_path / "tars", tensor="x")
    check(tars, import_features(tars), tokens, "blocks-1-patch-fp32")


@pytest.mark.parametrize("step", [8, 30, 50])
def test_it_resumes_after_a_kill(job: Import, tmp_path: Path, step: int) -> None:
    import_features(replace(job, out=tmp_path / "whole"))
    assert killed_at(step, lambda: import_features(job))
    import_features(job)
    assert file_hashes(job.out) == file_hashes(tmp_path / "whole")


def test_features_of_another_shape_are_refused_before_anything_is_written(
    job: Import, tokens: dict[str, np.ndarray]
) -> None:
    with pytest.raises(UsageError, match=r"has shape \(16, 24\), blocks\.1/prefix of this teacher has \(1, 24\)"):
        import_features(replace(job, tap="blocks.-1/prefix"))
    for path in job.features.rglob("*.npy"):
        np.save(path, np.zeros((15, 24), np.float32))
    with pytest.raises(UsageError, match=r"\(15, 24\), blocks\.1/patch .* \(16, 24\) \(or with 1 tokens in front"):
        import_features(job)
    assert not (job.out / "samples").exists()


def test_an_array_that_is_damaged_stops_and_the_rest_resumes(job: Import, tmp_path: Path) -> None:
    import_features(replace(job, out=tmp_path / "whole"))
    path = job.features / "dog" / "2.npy"
    good = path.read_bytes()
    values = np.load(path)
    values[3, 3] = np.nan
    np.save(path, values)
    with pytest.raises(BadRecordError, match="nan"):
        import_features(job)
    path.write_bytes(good)
    import_features(job)
    assert file_hashes(job.out) == file_hashes(tmp_path / "whole")


def test_other_features_into_the_same_cache_are_refused(job: Import) -> None:
    import_features(job)
    np.save(job.features / "cat" / "1.npy", np.zeros((17, 24), np.float32))
    with pytest.raises(CacheMismatchError, match=r"teacher\.weights_sha256"):
        import_features(job)


def test_their_teacher_is_only_run_with_weights_that_are_named(job: Import) -> None:
    made = import_features(job)
    cache = open_cache(job.out)
    with pytest.raises(UsageError, match="came with features that were imported"):
        teacher_of_group(cache, cache.group(made.group), weights=None, device=torch.device("cpu"))
    assert (
        teacher_of_group(cache, cache.group(made.group), weights="random", device=torch.device("cpu")).image_size == 16
    )


@pytest.mark.parametrize("changes", [{"codec": "auto"}, {"tap": "blocks.-1/patch:int8"}], ids=str)
def test_settings_check_themselves(job: Import, changes: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="name the tap alone, and the codec by its own name"):
        replace(job, **changes)
