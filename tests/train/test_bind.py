from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

import pytest
import torch
from torch import Tensor, nn

from kdcache.cache import Cache, open_cache
from kdcache.errors import GridMismatchError, ModelError, TapError, UsageError
from kdcache.methods.base import Method
from kdcache.models.taps import Tap
from kdcache.terms.base import Inputs, Needs, Site, TeacherNeed, Term
from kdcache.terms.cross_entropy import CrossEntropy
from kdcache.terms.logits import Logits
from kdcache.terms.tokens import Tokens
from kdcache.train import train
from kdcache.train.bind import columns_of
from kdcache.train.setup import prepare
from tests.conftest import GROUP
from tests.methods.support import one_batch
from tests.train.support import losses, tiny_run


@final
@dataclass(frozen=True, kw_only=True)
class MeanToken(Term):
    """A term of a user's own: the student's mean token against the mean of a teacher's prefix tokens."""

    name: Literal["mean-token"] = "mean-token"
    weight: float = 1.0

    def needs(self) -> Needs:
        return Needs(teacher=[TeacherNeed("prefix")], student=[Tap("patch", 0)])

    def modules(self, site: Site) -> nn.Module | None:
        return nn.Linear(site.student[0].num_channels, site.teacher[0].shape[-1])

    def __call__(self, inputs: Inputs, modules: nn.Module | None) -> Tensor:
        assert modules is not None
        difference = modules(inputs.student[0].mean(dim=1)) - inputs.teacher[0].decode().mean(dim=1)
        return difference.square().mean()


def test_a_term_is_one_class(tiny_root: Path, tmp_path: Path) -> None:
    method = Method(name="mine", terms=(CrossEntropy(weight=0.1), MeanToken()))
    summary = train(
        tiny_root, tmp_path / "run", tiny_run("data.codec=none", "optimizer.lr=1e-2", method=method, epochs=6)
    )
    values = [entry["mean-token"] for entry in losses(tmp_path / "run")]
    assert values[-1] < 0.7 * values[0]
    (own,) = [term for term in summary["terms"] if term["name"] == "mean-token"]
    assert own["columns"] == [f"{GROUP}/blocks-1-prefix-fp32"]
    assert own["student_taps"] == ["blocks.0/patch"]
    assert own["loss"] == pytest.approx(sum(values[-5:]) / 5)


@final
@dataclass(frozen=True, kw_only=True)
class Again(Term):
    """A term that runs the student a second time, with nothing masked: its tokens must be those of the step."""

    name: Literal["again"] = "again"
    weight: float = 1.0

    def needs(self) -> Needs:
        need = TeacherNeed("patch", blocks=(1, 7), codec="int8")
        return Needs(teacher=[need], student=[Tap("patch", 0), Tap("prefix", 1)], network=True)

    def modules(self, site: Site) -> None:
        assert site.network is not None and site.image_size == 16
        assert site.network.embedding_shape(16) == (16, 12)
        assert [column.label for column in site.teacher] == [f"{GROUP}:blocks.1/patch (int8)"]

    def __call__(self, inputs: Inputs, modules: nn.Module | None) -> Tensor:
        assert inputs.network is not None
        mask = torch.zeros(len(inputs.images), 16, dtype=torch.bool)
        found = inputs.network.masked_tokens(inputs.images, mask, torch.zeros(12))
        for one, other in zip(found, inputs.student, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)
        return inputs.student[0].square().mean()


def test_a_term_that_runs_parts_of_the_student(tiny_cache: Cache) -> None:
    method = Method(name="mine", terms=(Again(), Tokens(teacher=("blocks.0/patch",), student_block=(1,))))
    step = prepare(tiny_run("data.codec=none", method=method), tiny_cache).step
    batch = one_batch(tiny_cache)
    wanted = {column.name for bound in step.terms for column in bound.columns}
    targets = {name: values for name, values in batch.targets.items() if name in wanted}
    step(batch.normalized(slice(None)), batch.labels, targets)[0]["loss"].backward()
    assert step.terms[1].network_of(step.student) is None


def test_each_need_finds_its_column(groups_root: Path) -> None:
    cache = open_cache(groups_root)
    method = Method(
        name="mine",
        terms=(
            Logits(teacher="wide:"),
            Tokens(teacher=("wide:blocks.-1/patch", f"{GROUP}:blocks.-1/patch:bf16", "blocks.-2/patch")),
        ),
    )
    names = [[column.name for column in columns] for columns in columns_of(method, cache, None)]
    assert names == [
        ["wide/head-logits-fp16"],
        ["wide/blocks-1-patch-int8", f"{GROUP}/blocks-1-patch-bf16", f"{GROUP}/blocks-0-patch-fp32"],
    ]


@pytest.mark.parametrize("blocks", [(), (0, 1)])
def test_blocks_come_from_one_teacher(groups_root: Path, blocks: tuple[int, ...]) -> None:
    cache = open_cache(groups_root)
    held = {column.group for column in cache.fitting_columns(kind="patch", codec="int8")}
    assert len(held) > 1, "the cache has such columns of two teachers"
    with pytest.raises(TapError, match=r"blocks of a teacher \(patch\) could be any of .*wide:"):
        columns_of(Method(name="mine", terms=(Blocks(blocks=blocks),)), cache, None)
    found = columns_of(Method(name="mine", terms=(Blocks(blocks=blocks, teacher="wide"),)), cache, None)
    assert {column.group for columns in found for column in columns} == {"wide"}


@final
@dataclass(frozen=True, kw_only=True)
class Blocks(Term):
    """A term that reads whatever blocks there are."""

    name: Literal["blocks"] = "blocks"
    weight: float = 1.0
    blocks: tuple[int, ...] = ()
    teacher: str | None = None

    def needs(self) -> Needs:
        return Needs(teacher=[TeacherNeed("patch", group=self.teacher, codec="int8", blocks=self.blocks)], student=[])

    def __call__(self, inputs: Inputs, modules: nn.Module | None) -> Tensor:
        return inputs.images.sum() * 0


def test_the_codec_decides_where_a_need_does_not(tiny_cache: Cache) -> None:
    method = Method(name="mine", terms=(Logits(), Tokens(teacher=("blocks.-1/patch",))))
    names = [
        column.codec
        for columns in columns_of(Method(name="m", terms=(Logits(),)), tiny_cache, "topk")
        for column in columns
    ]
    assert names == ["topk"]
    with pytest.raises(Exception, match=r"head/logits could be any of|a logits tap could be any of"):
        columns_of(method, tiny_cache, "int8")
    with pytest.raises(UsageError, match=r"codec int8 would be ignored: method m reads .*head/logits \(topk\)"):
        columns_of(Method(name="m", terms=(Logits(teacher="head/logits:topk"),)), tiny_cache, "int8")


def test_taps_are_read_once_and_shared(tiny_cache: Cache) -> None:
    terms = (
        Tokens(teacher=("blocks.-1/patch:int8", "blocks.0/patch"), student_block=(-1, 0)),
        Tokens(teacher=("blocks.-1/patch:fp16",), student_block=(1,)),
    )
    step = prepare(tiny_run("data.codec=none", method=Method(name="mine", terms=terms)), tiny_cache).step
    assert [str(tap) for tap in step.student.taps] == ["blocks.1/patch", "blocks.0/patch"]
    assert [bound.tap_numbers for bound in step.terms] == [(0, 1), (0,)]
    assert [bound.label for bound in step.terms] == ["tokens", "tokens-2"]


def test_grids_that_differ_are_a_choice(tiny_root: Path, tmp_path: Path) -> None:
    kwargs = {**tiny_run().student_kwargs, "patch_size": 8}
    method = Method(name="mine", terms=(CrossEntropy(), Tokens(teacher=("blocks.-1/patch",))))
    with pytest.raises(GridMismatchError, match="2 x 2 patch tokens of these views, the teacher made 4 x 4"):
        prepare(tiny_run(method=method, student_kwargs=kwargs), open_cache(tiny_root))
    for side in ("student", "teacher"):
        own = method.with_terms([Tokens(teacher=("blocks.-1/patch",), resize=side)])
        train(tiny_root, tmp_path / side, tiny_run("optimizer.lr=1e-2", method=own, student_kwargs=kwargs, epochs=4))
        values = [entry["tokens"] for entry in losses(tmp_path / side)]
        assert values[-1] < values[0]


def test_blocks_whose_grid_fits_are_named(tiny_cache: Cache) -> None:
    method = Method(name="mine", terms=(CrossEntropy(), Tokens(teacher=("blocks.-1/patch",))))
    config = tiny_run(method=method, student="test_resnet", student_kwargs={})
    with pytest.raises(GridMismatchError, match=r"the student's blocks with the teacher's grid are -4$"):
        prepare(config, tiny_cache)


def test_another_image_size_is_a_choice(tiny_root: Path, tmp_path: Path) -> None:
    """A student of 32 pixels with patches of 8 has the grid of a teacher of 16 with patches of 4."""
    kwargs = {**tiny_run().student_kwargs, "patch_size": 8}
    summary = train(tiny_root, tmp_path / "run", tiny_run("image_size=32", "epochs=1", student_kwargs=kwargs))
    assert summary["steps"] == 5
    assert prepare(tiny_run("image_size=32", student_kwargs=kwargs), open_cache(tiny_root)).view.size == 32


def test_a_student_of_another_size_is_refused_before_the_first_step(
    tiny_cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An architecture whose sizes are not in its arguments: here the check of the argument is left out."""
    monkeypatch.setattr("kdcache.train.setup._image_size", lambda *_: 16)
    kwargs = {**tiny_run().student_kwargs, "img_size": 32}
    for method in (Method(name="mine", terms=(Logits(teacher="head/logits:fp16"),)), tiny_run().method):
        with pytest.raises(ModelError, match="the student does not take images of 16 x 16 pixels"):
            prepare(tiny_run(method=method, student_kwargs=kwargs), tiny_cache)
