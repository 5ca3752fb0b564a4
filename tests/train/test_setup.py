from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from kdcache.cache import Cache, open_cache
from kdcache.distributed import WorkerEnv
from kdcache.errors import CacheMismatchError, GridMismatchError, ModelError, Remedy, SourceError, TapError, UsageError
from kdcache.methods.feature import feature
from kdcache.methods.lift import lift
from kdcache.methods.logit import logit
from kdcache.methods.none import none
from kdcache.methods.wide_last import wide_last
from kdcache.teacher.extract import extract
from kdcache.train.config import DataConfig
from kdcache.train.setup import make_loader, prepare, with_batch_size
from tests.conftest import GROUP, STUDENT_KWARGS, TEACHER_KWARGS, tiny_extract
from tests.images.support import image_bytes, write_tar
from tests.train.support import tiny_run

ALONE = WorkerEnv(0, 1, 0, "job")


def test_columns_in_use_follow_from_the_method(tiny_cache: Cache) -> None:
    def columns(**changes: Any) -> list[str]:
        return [column.name for column in prepare(tiny_run(**changes), tiny_cache).columns]

    assert columns() == [f"{GROUP}/head-logits-fp16", f"{GROUP}/blocks-1-patch-fp16"]
    assert columns(method=none(), data=DataConfig()) == []
    assert columns(method=logit()) == [f"{GROUP}/head-logits-fp16"]
    assert columns(method=lift(teacher=("blocks.1/patch",), logit_weight=0.0)) == [f"{GROUP}/blocks-1-patch-fp16"]


def test_a_control_without_teacher_terms_asks_for_no_teacher(tiny_cache: Cache) -> None:
    control = lift(logit_weight=0, feature_weight=0, width=24)
    setup = prepare(tiny_run(method=control, data=DataConfig(), teacher="cait_s24_224"), tiny_cache)
    assert setup.columns == []


def test_the_student_is_seeded(tiny_cache: Cache) -> None:
    def weights(seed: int) -> torch.Tensor:
        return prepare(tiny_run(seed=seed), tiny_cache).step.student.model.head.weight

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_the_adapter_is_made_before_the_optimizer(tiny_cache: Cache) -> None:
    """The published ProjectorKD created it afterwards and never trained it."""
    setup = prepare(tiny_run(method=feature(teacher=("blocks.1/patch",))), tiny_cache)
    own = [name for name, _ in setup.step.named_parameters() if name.startswith("adapters")]
    assert own == ["adapters.tokens.0.adapter.projection.weight", "adapters.tokens.0.adapter.projection.bias"]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"teacher": "cait_s24_224"},
            CacheMismatchError,
            r"holds teacher 'vit_tiny_patch16_224', this run wants",
        ),
        ({"method": lift()}, TapError, r"could be any of"),
        ({"method": lift(teacher=("blocks.7/patch",))}, TapError, "no column for blocks.7/patch"),
        ({"student": "resnet18", "student_kwargs": {}, "method": wide_last()}, ModelError, "ResNet are convolutions"),
        ({"student": "deit_tinny"}, ModelError, "no model"),
        (
            {"student_kwargs": {**STUDENT_KWARGS, "patch_size": 8}},
            GridMismatchError,
            r"makes 2 x 2 patch tokens of these views, the teacher made 4 x 4 at .*blocks.1/patch",
        ),
        ({"num_classes": 5}, UsageError, "labels go up to 9"),
        ({"num_classes": 20}, UsageError, "the teacher has 10 classes at .*, the student would have 20"),
        (
            {"student_kwargs": {**STUDENT_KWARGS, "img_size": 32}},
            UsageError,
            "given images of 16 px; set image_size=32",
        ),
        ({"student_kwargs": {**STUDENT_KWARGS, "img_size": [16, 16]}}, None, ""),
        ({"method": logit(temperature=2.0)}, None, ""),
    ],
)
def test_misfits_are_found_before_the_first_step(
    tiny_cache: Cache, changes: dict[str, Any], error: type[Exception] | None, message: str
) -> None:
    config = tiny_run(**changes)
    if changes.get("method") == lift():
        config = replace(config, data=replace(config.data, codec=None))
    if error is None:
        prepare(config, tiny_cache)
        return
    with pytest.raises(error, match=message):
        prepare(config, tiny_cache)


def test_top_k_with_a_temperature(tiny_cache: Cache) -> None:
    config = tiny_run("data.codec=topk", method=logit(temperature=2.0))
    with pytest.raises(UsageError, match=r"temperature 2.0 needs all logits"):
        prepare(config, tiny_cache)


@pytest.mark.parametrize(
    ("changes", "world_size", "message"),
    [
        ({"batch_size": 6, "accumulate": 4}, 1, "does not divide among 1 ranks times 4 pieces"),
        ({"batch_size": 5}, 2, "does not divide among 2 ranks"),
        ({"batch_size": 64}, 1, "does not fill one batch"),
    ],
)
def test_batches_that_do_not_fit(tiny_cache: Cache, changes: dict[str, int], world_size: int, message: str) -> None:
    config = tiny_run(**changes)
    with pytest.raises(UsageError, match=message):
        make_loader(
            config, tiny_cache, prepare(config, tiny_cache), WorkerEnv(0, world_size, 0, "job"), torch.device("cpu")
        )


@pytest.mark.parametrize(
    ("settings", "world_size", "size"),
    [((), 1, 4), ((), 2, 4), ((), 3, 3), (("accumulate=2",), 4, 8), (("data.per_class=1",), 1, 2)],
)
def test_few_images_make_small_batches(
    tiny_cache: Cache, settings: tuple[str, ...], world_size: int, size: int
) -> None:
    """Twenty views in an epoch, or nine: at least four batches of them, which divide among the ranks."""
    config = tiny_run(*settings, batch_size=None)
    assert with_batch_size(config, tiny_cache, WorkerEnv(0, world_size, 0, "job")).batch_size == size


def test_many_images_make_the_usual_batches(tiny_cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdcache.train.setup._LEAST_BATCHES", 0)
    assert with_batch_size(tiny_run(batch_size=None), tiny_cache, ALONE).batch_size == 64
    assert with_batch_size(tiny_run(batch_size=7), tiny_cache, ALONE).batch_size == 7


def test_a_cache_that_refers_to_its_images(photos: Path, tmp_path: Path) -> None:
    extract(tiny_extract(tmp_path / "c", data=str(photos), images="reference", taps=("head/logits",)))
    cache = open_cache(tmp_path / "c")
    config = tiny_run(method=logit(logit_weight=1.0), batch_size=2)
    with pytest.raises(SourceError, match="refers to its images and does not hold them") as caught:
        make_loader(config, cache, prepare(config, cache), ALONE, torch.device("cpu"))
    assert caught.value.remedy is Remedy.PASS_SOURCE
    config = tiny_run(f"data.source={photos}", method=logit(logit_weight=1.0), batch_size=2)
    loader = make_loader(config, cache, prepare(config, cache), ALONE, torch.device("cpu"))
    assert len(list(loader)) == 3


def test_unlabelled_images_need_a_teacher_only_method(tmp_path: Path, photos: Path) -> None:
    from tests.images.test_tars import make_tar

    members = {f"k{n}.png": path.read_bytes() for n, path in enumerate(sorted(photos.rglob("*.png")))}
    tar = make_tar(tmp_path / "t.tar", members)
    extract(tiny_extract(tmp_path / "c", data=str(tar), taps=("head/logits",)))
    cache = open_cache(tmp_path / "c")
    with pytest.raises(UsageError, match="no labels") as unlabelled:
        prepare(tiny_run(method=logit(), batch_size=2), cache)
    assert unlabelled.value.remedy is Remedy.TRAIN_WITHOUT_LABELS
    prepare(tiny_run(method=logit(logit_weight=1.0), batch_size=2), cache)


def test_classes_that_differ_from_the_teachers_are_refused_unless_told(photos: Path, tmp_path: Path) -> None:
    """Two classes of images, ten of the teacher: class 0 is not class 0."""
    extract(tiny_extract(tmp_path / "c", data=str(photos), limit=None, taps=("blocks.1/patch:fp16", "head/logits")))
    cache = open_cache(tmp_path / "c")
    for method in (logit(), lift()):
        with pytest.raises(UsageError, match="the labels have 2 classes, the teacher's logits 10") as caught:
            prepare(tiny_run(method=method), cache)
        assert caught.value.remedy is Remedy.SEPARATE_CLASSES
    labels = prepare(tiny_run(method=lift(logit_weight=0.0)), cache)
    assert (labels.spec.num_classes, labels.class_names) == (2, ["cat", "dog"])
    teacher = prepare(tiny_run(method=logit(logit_weight=1.0)), cache)
    assert (teacher.spec.num_classes, teacher.class_names) == (10, []), "its head has the teacher's classes"
    told = prepare(tiny_run("same_classes=true", method=logit()), cache)
    assert (told.spec.num_classes, told.class_names) == (10, ["cat", "dog"])
    with pytest.raises(UsageError, match="same_classes=true would be ignored"):
        prepare(tiny_run("same_classes=true", method=none(), data=DataConfig()), cache)


def test_more_labels_than_the_teacher_has_classes_cannot_be_told_away(tiny_root: Path, tmp_path: Path) -> None:
    kwargs = {**TEACHER_KWARGS, "num_classes": 4}
    extract(tiny_extract(tmp_path / "c", teacher_kwargs=kwargs, taps=("head/logits",)))
    for settings in ((), ("same_classes=true",), ("num_classes=10",)):
        with pytest.raises(UsageError, match="the labels have 10 classes, the teacher's logits 4") as caught:
            prepare(tiny_run(*settings, method=logit()), open_cache(tmp_path / "c"))
        assert caught.value.remedy is Remedy.LEAVE_OUT_LABELS_OR_LOGITS


def test_labels_that_begin_at_1_are_named_as_such(tmp_path: Path) -> None:
    """num_classes=11 for a teacher of 10 would be the next mistake."""
    members = {f"{number}.{end}": data for number in range(1, 11) for end, data in (
        ("cls", str(number).encode()), ("jpg", image_bytes(number)),
    )}  # fmt: skip
    data = str(write_tar(tmp_path / "t.tar", members))
    extract(tiny_extract(tmp_path / "c", data=data, limit=None, taps=("head/logits",)))
    for settings in ((), ("num_classes=11",), ("same_classes=true",)):
        with pytest.raises(
            UsageError, match=r"labels run from 1 to 10, .* from 0 to 9 .* seem to begin at 1"
        ) as caught:
            prepare(tiny_run(*settings, method=logit(), batch_size=2), open_cache(tmp_path / "c"))
        assert caught.value.remedy is Remedy.EXTRACT_ELSEWHERE


def test_the_students_evaluation_view(tiny_cache: Cache) -> None:
    assert prepare(tiny_run(), tiny_cache).view.crop_pct == 0.9
    view = prepare(tiny_run("eval.crop_pct=0.5"), tiny_cache).view
    assert (view.crop_pct, view.size, view.mean) == (0.5, 16, (0.5, 0.5, 0.5))


def test_labels_without_names_that_reach_far_count_the_teachers_classes(tiny_cache: Cache) -> None:
    """As 987 of the labels of 64 photographs from ImageNet's tars."""
    named = tiny_cache.manifest.fingerprint.source
    unnamed = msgspec.structs.replace(named, class_names=[])
    assert unnamed.num_classes == 10
    assert unnamed.is_part_of(19)
    assert not unnamed.is_part_of(20)
    assert not named.is_part_of(11)
