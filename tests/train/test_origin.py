from pathlib import Path

import pytest
import torch

from kdcache.cache import Cache, open_cache
from kdcache.errors import RunMismatchError
from kdcache.methods.feature import feature
from kdcache.methods.none import none
from kdcache.train.folder import load_student
from kdcache.train.origin import origin_of, read_origin, save_origin, save_student
from kdcache.train.setup import prepare
from tests.conftest import GROUP, TEACHER, TEACHER_KWARGS
from tests.train.support import tiny_run


def test_it_names_teachers_terms_and_images(tiny_cache: Cache, tmp_path: Path) -> None:
    origin = origin_of(prepare(tiny_run(), tiny_cache), tiny_cache)
    save_origin(tmp_path, origin)
    assert read_origin(tmp_path) == origin
    teacher = origin.teachers[GROUP]
    assert (teacher.name, teacher.kwargs, teacher.weights) == (TEACHER, TEACHER_KWARGS, "random")
    assert set(teacher.columns) == {column for term in origin.terms for column in term["columns"]}
    assert [term["label"] for term in origin.terms] == ["cross-entropy", "logits", "tokens"]
    assert (origin.method, origin.change["name"], origin.change["width"]) == ("lift", "lift", 24)
    assert not origin.online
    assert (origin.num_images, origin.num_classes, origin.source_kind) == (20, 10, "digits")
    assert origin.views["recipe"] == "rrc-flip"


def test_two_teachers(groups_root: Path) -> None:
    cache = open_cache(groups_root)
    setup = prepare(tiny_run("data.codec=none", method=none()), cache)
    assert origin_of(setup, cache).teachers == {}
    both = feature(teacher=(f"{GROUP}:blocks.1/patch:fp16", "wide:blocks.-1/patch"), logit_weight=0)
    setup = prepare(tiny_run("data.codec=none", method=both), cache)
    assert list(origin_of(setup, cache).teachers) == [GROUP, "wide"]


def test_a_student_of_an_own_loop_is_saved_whole(tiny_cache: Cache, tmp_path: Path) -> None:
    setup = prepare(tiny_run(), tiny_cache)
    save_student(tmp_path / "own", setup, tiny_cache)
    student, spec, view, _ = load_student(tmp_path / "own")
    assert (spec, view) == (setup.spec, setup.view)
    images = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        assert torch.equal(student(images), setup.step.student.eval()(images))
    assert read_origin(tmp_path / "own").method == "lift"


def test_an_edit_of_where_it_comes_from_is_noticed(tiny_cache: Cache, tmp_path: Path) -> None:
    setup = prepare(tiny_run(), tiny_cache)
    save_student(tmp_path / "own", setup, tiny_cache)
    path = tmp_path / "own" / "origin.json"
    path.write_text(path.read_text().replace('"num_images":20', '"num_images":90'))
    with pytest.raises(RunMismatchError, match=r"damaged or edited .*restore it"):
        read_origin(tmp_path / "own")


@pytest.mark.parametrize(
    ("content", "match"), [(None, "not the folder of a finished run"), (b"{", "restore it"), (b"{}", "restore it")]
)
def test_a_folder_without_it(tmp_path: Path, content: bytes | None, match: str) -> None:
    if content is not None:
        (tmp_path / "origin.json").write_bytes(content)
    with pytest.raises(RunMismatchError, match=match):
        read_origin(tmp_path)
