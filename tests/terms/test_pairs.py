"""Pairs of taps: which go together, grids that differ, transforms, one token."""

from typing import Any

import pytest
import torch

from kdcache.errors import GridMismatchError
from kdcache.losses import feature_loss
from kdcache.models.taps import Tap
from kdcache.terms.gram import Gram
from kdcache.terms.pairs import resize_tokens
from kdcache.terms.tokens import Tokens
from tests.terms.support import apply, draw, loss_of, make_column, make_modules, make_site, pack


def tokens(**settings: Any) -> Tokens:
    """A term without anything trained, so that values can be compared."""
    return Tokens(adapter="pool", **settings)


def student_taps(*teacher: str, student_block: tuple[int, ...] = ()) -> list[Tap]:
    return list(Tokens(teacher=teacher, student_block=student_block).needs().student)


def test_the_student_reads_what_the_teacher_gave() -> None:
    assert student_taps() == [Tap("patch")]
    assert student_taps("wide:blocks.3/patch", "blocks.-1/prefix", "head/embedding") == [
        Tap("patch"),
        Tap("prefix"),
        Tap("embedding"),
    ]


def test_one_of_either_goes_with_all_of_the_other() -> None:
    assert student_taps("blocks.0/patch", "a:blocks.1/patch", student_block=(2,)) == [Tap("patch", 2)] * 2
    needs = Tokens(teacher=("blocks.5/patch",), student_block=(0, -1)).needs()
    assert [need.tap for need in needs.teacher] == ["blocks.5/patch"] * 2
    assert list(needs.student) == [Tap("patch", 0), Tap("patch", -1)]
    assert len(Tokens(student_block=(0, 1, 2)).needs().teacher) == 3


def test_unequal_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="2 teacher taps and 3 student blocks do not make pairs"):
        Tokens(teacher=("blocks.0/patch", "blocks.1/patch"), student_block=(0, 1, 2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resize": "both"}, "resize must be one of refuse, student, teacher, got 'both'"),
        ({"transform": "whiten"}, "transform must be one of none, mean, standardize, phi-s, layer-norm, got 'whiten'"),
        ({"teacher": ("head/logits",)}, "the term tokens compares tokens, got teacher=head/logits"),
        ({"teacher": ("head/embedding",), "student_block": (1,)}, "an embedding has no block: leave out"),
        ({"weight": -1.0}, "weight must be >= 0"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tokens(**settings)


def test_several_pairs_are_the_mean_of_single_ones() -> None:
    student = [draw(4, 16, 12), draw(4, 1, 12, seed=1), draw(4, 16, 6, seed=2)]
    targets = [
        pack(draw(4, 16, 24, seed=3), (4, 4), codec="int8"),
        pack(draw(4, 1, 24, seed=4), kind="prefix"),
        pack(draw(4, 16, 36, seed=5), (4, 4), group="wide", codec="fp16"),
    ]
    single = [loss_of(tokens(), own, other) for own, other in zip(student, targets, strict=True)]
    term = tokens(teacher=("blocks.1/patch", "blocks.1/prefix", "wide:"))
    together = apply(term, student, targets, make_modules(term, student, targets))
    torch.testing.assert_close(together, sum(single) / 3)


def test_adapters_of_pairs_are_their_own() -> None:
    student = [draw(4, 16, 12)] * 2
    targets = [pack(draw(4, 16, width), (4, 4), group=str(width)) for width in (24, 36)]
    modules = make_modules(Tokens(), student, targets)
    assert [pair.adapter.projection.weight.shape for pair in modules] == [(24, 12), (36, 12)]


def test_a_map_is_resized_in_row_order() -> None:
    """Along the rows of a 2 x 3 map the value is the row, and stays so on 4 x 3."""
    values = torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0, 1.0]).view(1, 6, 1)
    found = resize_tokens(values, (2, 3), (4, 3)).view(4, 3)
    assert found.tolist() == [[0.0] * 3, [0.25] * 3, [0.75] * 3, [1.0] * 3]


def test_shrinking_averages_and_keeps_constants() -> None:
    """With antialiasing every old token has a say in a new one."""
    values = torch.zeros(1, 16, 1)
    values[0, 0] = 1
    found = resize_tokens(values, (4, 4), (2, 2))
    assert 0 < float(found[0, 0]) < 1 and found.shape == (1, 4, 1)
    assert all(
        float(resize_tokens(torch.eye(16)[number].view(1, 16, 1), (4, 4), (2, 2)).abs().sum()) > 0
        for number in range(16)
    )
    constant = resize_tokens(torch.full((1, 16, 1), 3.0), (4, 4), (7, 3))
    torch.testing.assert_close(constant, torch.full((1, 21, 1), 3.0))
    assert resize_tokens(torch.zeros(1, 16, 1, dtype=torch.bfloat16), (4, 4), (2, 2)).dtype == torch.float32


@pytest.mark.parametrize("transform", ["none", "standardize"])
@pytest.mark.parametrize("resize", ["student", "teacher"])
def test_the_side_that_is_resized(resize: str, transform: str) -> None:
    """The targets are transformed by statistics of all that is stored, then resized."""
    student, teacher = draw(4, 6, 24), draw(4, 16, 24, seed=1)
    if transform == "standardize":
        wanted = (teacher - teacher.mean((0, 1))) / teacher.var((0, 1), correction=0).sqrt()
    else:
        wanted = teacher
    pairs = {
        "student": (resize_tokens(student, (2, 3), (4, 4)), wanted),
        "teacher": (student, resize_tokens(wanted, (4, 4), (2, 3))),
    }
    expected = feature_loss(*pairs[resize], kind="mse")
    term = tokens(resize=resize, transform=transform)
    found = loss_of(term, student, pack(teacher, (4, 4)), grids=[(2, 3)])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_other_grids_are_refused_unless_that_is_chosen() -> None:
    message = r"the student makes 2 x 3 patch tokens of these views, the teacher made 4 x 4 at a:blocks.1/patch"
    with pytest.raises(GridMismatchError, match=message):
        loss_of(tokens(), draw(2, 6, 24), pack(draw(2, 16, 24), (4, 4)), grids=[(2, 3)])


def test_other_counts_of_prefix_tokens_are_refused() -> None:
    """Nothing can be resized there: a class token is not between two registers."""
    targets = pack(draw(2, 5, 24), kind="prefix")
    with pytest.raises(
        GridMismatchError, match=r"the student has 1 tokens of this kind, the teacher 5 at a:blocks.1/prefix"
    ):
        loss_of(tokens(resize="student"), draw(2, 1, 24), targets)


@pytest.mark.parametrize("transform", ["none", "mean", "standardize"])
def test_an_embedding_is_one_token(transform: str) -> None:
    student, teacher = draw(6, 1, 24), draw(6, 24, seed=1)
    as_embedding = pack(teacher, kind="embedding", tap="head/embedding")
    as_token = pack(teacher.unsqueeze(1), kind="prefix")
    found, expected = (loss_of(tokens(transform=transform), student, each) for each in (as_embedding, as_token))
    torch.testing.assert_close(found, expected)


def test_targets_stay_packed_where_nothing_is_done_to_them() -> None:
    targets = pack(draw(2, 16, 24), (4, 4), codec="int8")
    plain, changed = (
        make_modules(tokens(transform=name), [draw(2, 16, 24)], [targets])[0] for name in ("none", "mean")
    )
    assert plain.targets(targets).values is targets.fields["values"]
    assert changed.targets(targets).values.dtype == torch.float32


def test_statistics_are_read_where_a_transform_needs_them_only() -> None:
    site = make_site([draw(2, 16, 24)], [pack(draw(2, 16, 24), (4, 4))])
    asked: list[str] = []

    def statistics(column: Any) -> Any:
        asked.append(column.name)
        return site.statistics(column)

    for term in (Gram(), Gram(transform="phi-s")):
        term.modules(type(site)(site.student, site.teacher, statistics))
    assert asked == [make_column((16, 24)).name]


def test_a_transform_keeps_no_parameters() -> None:
    modules = make_modules(Gram(transform="phi-s"), [draw(2, 16, 12)], [pack(draw(2, 16, 24), (4, 4))])
    assert list(modules.parameters()) == [] and len(list(modules.buffers())) == 2
