"""A cache of the recipe deit through every way that reads views, and replayed from its JSON alone."""

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kdcache.cache import Cache, open_cache
from kdcache.cli.main import main
from kdcache.images import decode_pixels
from kdcache.stream.config import StreamConfig
from kdcache.stream.dataset import CacheDataset
from kdcache.stream.loader import CacheLoader
from kdcache.teacher.extract import extract
from kdcache.teacher.online import online_teachers
from kdcache.train import train
from kdcache.views import VIEW_FIELDS, ViewParams, pixel_hash, replay_view
from tests.conftest import file_hashes, tiny_add, tiny_extract
from tests.train.support import losses, tiny_run

TAPS = ("blocks.-1/patch:fp32", "head/logits:fp32")
VIEWS = 6


def deit_extract(out: Path, data: Path, **changes: Any) -> Any:
    settings: dict[str, Any] = {
        "data": str(data), "view_recipe": "deit", "views": VIEWS, "limit": None, "shard_samples": 4, "taps": TAPS,
        "precision": "fp32", "teacher_kwargs": {**tiny_extract(out).teacher_kwargs, "img_size": 32},
    }  # fmt: skip
    return tiny_extract(out, **{**settings, **changes})


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of class folders with six rough images of different shapes."""
    random, root = np.random.default_rng(5), tmp_path_factory.mktemp("images")
    for number in range(6):
        path = root / ("cat" if number % 2 else "dog") / f"{number}.{'png' if number % 3 else 'jpg'}"
        path.parent.mkdir(exist_ok=True)
        small = random.integers(0, 256, (7 + number, 9, 3), dtype=np.uint8)
        Image.fromarray(small).resize((50 - 2 * number, 40 + 3 * number)).save(path)
    return root


@pytest.fixture(scope="module")
def deit_root(six: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that no test may change."""
    root = tmp_path_factory.mktemp("caches") / "deit"
    extract(deit_extract(root, six))
    return root


@pytest.fixture
def deit_copy(deit_root: Path, tmp_path: Path) -> Path:
    """A copy of it to change."""
    return Path(shutil.copytree(deit_root, tmp_path / "deit"))


def delivered(cache: Cache, **changes: Any) -> dict[tuple[int, int], np.ndarray]:
    """Pixels by sample and view, every hash compared where views are replayed."""
    found: dict[tuple[int, int], np.ndarray] = {}
    config = StreamConfig(batch_size=6, views_per_sample=VIEWS, num_threads=1, check_pixels=1.0, **changes)
    for batch in CacheLoader(cache, [], config):
        assert batch.pixels is not None
        for sample, view, pixels in zip(
            batch.samples.tolist(), batch.views.tolist(), batch.pixels.numpy(), strict=True
        ):
            found[sample, view] = pixels.copy()
    return found


# Nothing of kdcache reads the cache here: tarfile and json do. It only decodes the image and replays the integers.
REPLAY_FROM_JSON = """
import hashlib, json, sys, tarfile
from pathlib import Path

samples = []
for path in sorted(Path(sys.argv[1], "samples").glob("*.tar")):
    with tarfile.open(path) as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}
    facts = json.loads(members["__kdcache__"])["views"]
    for name, data in members.items():
        if name.endswith(".json"):
            key = name.removesuffix(".json")
            [image] = [other for own, other in members.items() if own.startswith(key + ".") and own != name]
            samples.append((key, json.loads(data), image))
assert "kdcache" not in sys.modules

from kdcache.images import decode_pixels
from kdcache.views import ViewParams, replay_view

found = {}
for key, sample, image in samples:
    for number, view in enumerate(sample["views"]):
        integers = ViewParams(**{name: view[name] for name in facts["fields"]})
        pixels = replay_view(decode_pixels(image), integers, size=facts["size"], interpolation=facts["interpolation"],
                             mean=facts["mean"], std=facts["std"])
        found[f"{key} {number}"] = hashlib.sha256(pixels.tobytes()).hexdigest()[:32]
print(json.dumps(found))
"""


def test_a_fresh_process_replays_from_the_json_alone(deit_root: Path) -> None:
    """The standard library reads the integers; another process makes of them the pixels that the teacher saw."""
    command = [sys.executable, "-c", REPLAY_FROM_JSON, str(deit_root)]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    cache = open_cache(deit_root)
    expected, num_augmented = {}, 0
    for shard in cache.manifest.shards:
        index = cache.index(shard)
        for row in range(len(index)):
            sample = index.sample(row)
            expected |= {f"{sample.key} {view}": pixels for view, pixels in enumerate(sample.pixel_hashes)}
            num_augmented += sum(any(view[9:13]) for view in sample.views)
    assert found == expected
    assert len(found) == 6 * VIEWS
    assert num_augmented > 12
    assert sum(
        view[15] > 0 for shard in cache.manifest.shards for sample in cache.index(shard).views for view in sample
    )


def test_the_integers_decide_the_pixels(deit_root: Path) -> None:
    """Each of the nine that deit adds, where it is used: another value gives other pixels."""
    facts = open_cache(deit_root).manifest.fingerprint.views
    changed: set[str] = set()
    with tarfile.open(next(iter(sorted((deit_root / "samples").glob("*.tar"))))) as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}
    for name, data in members.items():
        if not name.endswith(".json"):
            continue
        image = decode_pixels(next(d for n, d in members.items() if n.startswith(name[:-4]) and n != name))
        for view in json.loads(data)["views"]:
            stored = view.pop("pixels")
            settings = {"size": facts.size, "interpolation": facts.interpolation, "mean": facts.mean, "std": facts.std}
            assert pixel_hash(replay_view(image, ViewParams(**view), **settings)) == stored
            for field in VIEW_FIELDS[9:]:
                other = {**view, field: view[field] // 2 if "magnitude" in field else max(0, view[field] - 1)}
                if field.startswith("operation") and not other[field]:
                    other[field.replace("operation", "magnitude")] = 0
                if other == view or (0 in (other["erase_width"], other["erase_height"]) and view["erase_width"]):
                    continue
                try:
                    pixels = replay_view(image, ViewParams(**other), **settings)
                except ValueError:  # the operation before has no such magnitude
                    continue
                if pixel_hash(pixels) != stored:
                    changed.add(field)
    assert changed == set(VIEW_FIELDS[9:])


def test_the_same_command_gives_the_same_bytes(deit_root: Path, six: Path, tmp_path: Path) -> None:
    extract(deit_extract(tmp_path / "again", six))
    assert file_hashes(tmp_path / "again") == file_hashes(deit_root)


def test_a_second_teacher_and_stored_pixels_see_the_same_views(deit_copy: Path) -> None:
    replayed = delivered(open_cache(deit_copy))
    kwargs = {**tiny_add(deit_copy).teacher_kwargs, "img_size": 32}
    report = extract(tiny_add(deit_copy, teacher_kwargs=kwargs, pixels="raw"))
    assert list(report.groups) == ["wide", "pixels"]
    stored = delivered(open_cache(deit_copy), pixels="stored")
    assert stored.keys() == replayed.keys()
    assert len(stored) == 6 * VIEWS
    for record, pixels in stored.items():
        np.testing.assert_array_equal(pixels, replayed[record])
    assert main(["verify", str(deit_copy)]) == 0


def test_views_are_augmented_before_they_become_jpeg(six: Path, deit_root: Path, tmp_path: Path) -> None:
    extract(deit_extract(tmp_path / "jpeg", six, pixels="jpeg:90"))
    assert main(["verify", str(tmp_path / "jpeg")]) == 0
    cache = open_cache(tmp_path / "jpeg")
    replayed, stored = delivered(cache, pixels="replay"), delivered(cache, pixels="stored")
    plain = delivered(open_cache(deit_root))
    for record, pixels in stored.items():
        np.testing.assert_array_equal(pixels, replayed[record])
        assert 0 < np.abs(pixels.astype(int) - plain[record]).mean() < 40


def test_a_rebuild_finds_the_same_indexes(deit_copy: Path) -> None:
    before = file_hashes(deit_copy)
    shutil.rmtree(deit_copy / "index")
    (deit_copy / "manifest.json").unlink()
    assert main(["verify", str(deit_copy), "--rebuild"]) == 0
    assert file_hashes(deit_copy) == before
    assert main(["verify", str(deit_copy), "--rerun-teacher", "6", "--teacher-weights", "random"]) == 0


def test_students_train_on_them_from_the_cache_and_beside_the_teacher(deit_root: Path, tmp_path: Path) -> None:
    settings = ("data.codec=none", "optimizer.lr=1e-2", "data.check_pixels=1", "same_classes=true")
    cached = train(deit_root, tmp_path / "cached", tiny_run(*settings))
    train(deit_root, tmp_path / "online", tiny_run(*settings, "online=true"), load_teachers=online_teachers)
    assert cached["steps"] == 2
    for one, two in zip(losses(tmp_path / "cached"), losses(tmp_path / "online"), strict=True):
        assert two == pytest.approx(one, rel=1e-5, abs=1e-6)


def test_single_records_are_the_same(deit_root: Path) -> None:
    cache = open_cache(deit_root)
    dataset = CacheDataset(cache, check_pixels=1.0)
    for (sample, view), pixels in delivered(cache).items():
        np.testing.assert_array_equal(dataset[sample * VIEWS + view]["pixels"], pixels)


def test_encoded_images_carry_all_integers(deit_root: Path) -> None:
    config = StreamConfig(batch_size=6, views_per_sample=VIEWS, num_threads=1, images="encoded")
    batch = next(iter(CacheLoader(open_cache(deit_root), [], config)))
    assert batch.encoded is not None
    assert batch.encoded.views.shape == (6, len(VIEW_FIELDS))


def test_another_recipe_is_another_cache(deit_root: Path, six: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["extract", "--data", str(six), "--teacher", "vit_tiny_patch16_224", "--teacher-weights", "random"]
    command += [
        "--teacher-kwargs",
        "img_size=32",
        "patch_size=4",
        "embed_dim=24",
        "depth=2",
        "num_heads=3",
        "num_classes=10",
    ]
    command += ["--views", str(VIEWS), "--shard-samples", "4", "--out", str(deit_root)]
    assert main([*command, "--view-recipe", "rrc-flip"]) == 1
    assert "views.recipe: the cache has 'deit', this run wants 'rrc-flip'" in capsys.readouterr().err
    assert main([*command, "--view-recipe", "deit", "--view-params", "erase=0.2"]) == 1
    assert "views.params.erase: the cache has 0.25, this run wants 0.2" in capsys.readouterr().err
