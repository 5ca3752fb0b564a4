"""What terms share: references to a teacher's column, weights."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from kdcache.errors import TapError, UsageError
from kdcache.terms import TERMS, load_term
from kdcache.terms.base import Inputs, Needs, Site, TeacherNeed, Term, check_weight, teacher_need


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", TeacherNeed("patch")),
        ("blocks.-1/patch", TeacherNeed("patch", "blocks.-1/patch")),
        ("blocks.3/prefix", TeacherNeed("prefix", "blocks.3/prefix")),
        ("head/embedding", TeacherNeed("embedding", "head/embedding")),
        ("head/logits", TeacherNeed("logits", "head/logits")),
        ("blocks.0/patch:int8", TeacherNeed("patch", "blocks.0/patch", None, "int8")),
        ("wide:blocks.0/patch", TeacherNeed("patch", "blocks.0/patch", "wide")),
        ("cait-s24-224:blocks.-1/patch:int8", TeacherNeed("patch", "blocks.-1/patch", "cait-s24-224", "int8")),
        ("wide:", TeacherNeed("patch", None, "wide")),
        (":int8", TeacherNeed("patch", None, None, "int8")),
        ("wide::int8", TeacherNeed("patch", None, "wide", "int8")),
    ],
)
def test_references_to_a_column(text: str, found: TeacherNeed) -> None:
    assert teacher_need(text, "patch") == found


def test_the_kind_is_the_terms_where_no_tap_is_named() -> None:
    assert teacher_need("wide:", "logits").kind == "logits"
    assert teacher_need("wide:blocks.0/patch", "logits").kind == "patch"


@pytest.mark.parametrize("text", ["wide", "wide:int8", "a:b:blocks.0/patch:int8", "blocks.0/patch:int8:fp16"])
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=rf"teacher '{text}': wanted \[GROUP:\]TAP\[:CODEC\], such as"):
        teacher_need(text, "patch")


@pytest.mark.parametrize("text", ["blocks.x/patch", "wide:blocks.0/tokens", "/", "head/nothing:fp16"])
def test_what_is_no_tap_is_refused(text: str) -> None:
    with pytest.raises(TapError, match="is not a tap"):
        teacher_need(text, "patch")


def test_weights_are_not_negative() -> None:
    check_weight(0)
    with pytest.raises(ValueError, match="weight must be >= 0, got -1"):
        check_weight(-1)


@pytest.mark.parametrize("name", TERMS)
def test_every_term_is_frozen_data_under_its_name(name: str) -> None:
    term = load_term(name)()
    assert term.name == name and isinstance(term, Term)
    assert term == type(term)() and hash(term) == hash(type(term)())
    with pytest.raises(dataclasses.FrozenInstanceError):
        term.weight = 2.0
    with pytest.raises(ValueError, match=r"weight must be >= 0, got -0.5"):
        load_term(name)(weight=-0.5)


@pytest.mark.parametrize("name", TERMS)
def test_every_term_says_what_it_reads(name: str) -> None:
    needs = load_term(name)().needs()
    assert needs.labels or needs.teacher
    assert bool(needs.student) == (name not in ("cross-entropy", "logits", "local"))
    assert needs.network == (name in ("local", "proteus"))


def test_a_term_is_one_class() -> None:
    @dataclasses.dataclass(frozen=True)
    class Confidence(Term):
        name: str = "confidence"
        weight: float = 1.0

        def needs(self) -> Needs:
            return Needs()

        def __call__(self, inputs: Inputs, modules: nn.Module | None) -> Tensor:
            return inputs.logits.softmax(1).amax(1).mean()

    assert Confidence().modules(Site([], [], lambda column: None)) is None
    inputs = Inputs(torch.zeros(2, 4), torch.zeros(2), [], [], torch.zeros(2, 3, 16, 16))
    assert float(Confidence()(inputs, None)) == 0.25


def test_an_unknown_term() -> None:
    with pytest.raises(UsageError, match=r"unknown term 'gra'; did you mean gram\? There are cross-entropy, logits"):
        load_term("gra")
