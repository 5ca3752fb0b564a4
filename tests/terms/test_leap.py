"""LEAP's term: its error by a plain formula, when the target moves, state that resumes, what is refused, training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdcache.cache import open_cache
from kdcache.errors import TapError
from kdcache.losses import linear_cka
from kdcache.methods.base import Method
from kdcache.stream.targets import PackedTargets
from kdcache.terms.base import Site, TeacherNeed, TokenShape
from kdcache.terms.leap import Curriculum, Leap
from kdcache.train.bind import columns_of
from kdcache.train.checkpoint import Checkpoints
from tests.conftest import GROUP
from tests.terms import support
from tests.terms.support import apply, draw, pack

GRID = (4, 4)
STUDENT = draw(6, 16, 12)


def targets(count: int = 3) -> list[PackedTargets]:
    return [pack(draw(6, 16, 24, seed=1 + block), GRID, tap=f"blocks.{block}/patch") for block in range(count)]


def made(term: Leap, held: Sequence[PackedTargets], grid: Any = GRID) -> Any:
    torch.manual_seed(0)
    columns = [each.column for each in held]
    site = Site([TokenShape(16, 12, grid)], columns, lambda column: support.statistics_of(draw(1, 4, 24)))
    return term.modules(site)


def normed(tokens: Tensor) -> Tensor:
    centred = tokens - tokens.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def state(curriculum: Curriculum) -> tuple[int, float, int]:
    return int(curriculum.target), float(curriculum.similarity), int(curriculum.forwards)


def similarity(curriculum: Any, held: PackedTargets) -> float:
    with torch.no_grad():
        return float(linear_cka(curriculum.projection(STUDENT), normed(held.decode())))


def test_the_error_is_that_to_the_first_block() -> None:
    held, term = targets(), Leap(start="first")
    curriculum = made(term, held)
    found = apply(term, [STUDENT], held, curriculum)
    projected = STUDENT @ curriculum.projection.weight.T + curriculum.projection.bias
    expected = (projected - normed(held[0].decode())).square().mean()
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    found.backward()
    gradient = torch.autograd.grad(expected, curriculum.projection.weight)[0]
    torch.testing.assert_close(curriculum.projection.weight.grad, gradient, rtol=1e-4, atol=1e-7)


def test_the_gradient_by_finite_differences() -> None:
    held, term = targets(1), Leap(start="first")
    curriculum = made(term, held).double()
    student = STUDENT[:2].double().requires_grad_()
    rows = [each.rows(slice(2)) for each in held]
    inputs = (student, curriculum.projection.weight, curriculum.projection.bias)
    assert torch.autograd.gradcheck(lambda *each: apply(term, [each[0]], rows, curriculum), inputs, fast_mode=True)


def test_the_closest_block_begins() -> None:
    """The last of three is a turned student, so that its CKA is 1."""
    held, term = targets(), Leap()
    curriculum = made(term, held)
    with torch.no_grad():
        projected = curriculum.projection(STUDENT)
    held[2] = pack(projected, GRID, tap="blocks.2/patch")
    wanted = [similarity(curriculum, each) for each in held]
    assert wanted[2] > max(wanted[:2])
    apply(term, [STUDENT], held, curriculum)
    assert state(curriculum)[0] == 2
    assert state(made(term, held)) == (-1, 0.0, 0)


def test_the_moving_average_moves_the_target() -> None:
    held, term = targets(2), Leap(start="first", alpha=0.25, threshold=0.2)
    curriculum = made(term, held)
    cka, average, expected = similarity(curriculum, held[0]), 0.0, []
    # A student that does not change: the average creeps up to its CKA, and the threshold lies in between.
    term = Leap(start="first", alpha=0.25, threshold=0.6 * cka)
    while average < term.threshold:
        average = 0.25 * cka + 0.75 * average
        expected.append(average)
    assert len(expected) == 4
    for step in range(3):
        apply(term, [STUDENT], held, curriculum)
        assert state(curriculum) == (0, pytest.approx(expected[step], rel=1e-4), step + 1)
    before = apply(term, [STUDENT], held, curriculum)
    assert state(curriculum) == (1, 0.0, 0)
    after = apply(term, [STUDENT], held, curriculum)
    assert float(after.detach()) != float(before.detach())


def test_steps_move_the_target_and_the_last_stays() -> None:
    held, term = targets(), Leap(start="first", threshold=1.0, max_steps=2)
    curriculum, seen = made(term, held), []
    for _ in range(8):
        apply(term, [STUDENT], held, curriculum)
        seen.append(state(curriculum)[::2])
    assert seen == [(0, 1), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2), (2, 3), (2, 4)]


def test_only_training_changes_the_state() -> None:
    held, term = targets(), Leap(start="first", max_steps=1)
    curriculum = made(term, held)
    with torch.no_grad():
        first = apply(term, [STUDENT], held, curriculum)
    curriculum.eval()
    apply(term, [STUDENT], held, curriculum)
    assert state(curriculum) == (-1, 0.0, 0)
    curriculum.train()
    torch.testing.assert_close(apply(term, [STUDENT], held, curriculum).detach(), first, rtol=0, atol=0)
    assert state(curriculum) == (1, 0.0, 0)


def test_the_state_is_all_in_the_modules() -> None:
    held, term = targets(), Leap(start="first", threshold=1.0, max_steps=3)
    curriculum, again = made(term, held), made(term, held)
    for _ in range(4):
        apply(term, [STUDENT], held, curriculum)
    again.load_state_dict(curriculum.state_dict())
    for _ in range(4):
        one, other = (apply(term, [STUDENT], held, each).detach() for each in (curriculum, again))
        assert torch.equal(one, other) and state(curriculum) == state(again)


def test_packed_targets_and_autocast() -> None:
    support.check_packed_targets(Leap(start="first"), STUDENT, draw(6, 16, 24, seed=1), GRID)
    support.check_autocast(Leap(start="first"), STUDENT, draw(6, 16, 24, seed=1), GRID, rtol=1e-2)
    # One target: what is compared does not depend on the state, and halves average to the whole.
    support.check_accumulation(Leap(start="first"), STUDENT, draw(6, 16, 24, seed=1), GRID)


def test_what_it_reads() -> None:
    assert list(Leap().needs().teacher) == [TeacherNeed("patch", blocks=())]
    assert list(Leap(teacher=("wide::int8",)).needs().teacher) == [TeacherNeed("patch", None, "wide", "int8", ())]
    taps = ("blocks.0/patch", "blocks.-1/patch")
    assert [need.tap for need in Leap(teacher=taps).needs().teacher] == list(taps)
    assert len(Leap(teacher=taps, student_block=(3,)).needs().student) == 1


def test_every_block_of_the_cache_in_order(blocks_root: Path, groups_root: Path) -> None:
    cache = open_cache(blocks_root)
    (columns,) = columns_of(Method(name="mine", terms=(Leap(),)), cache, None)
    assert [column.tap for column in columns] == ["blocks.0/patch", "blocks.1/patch", "blocks.2/patch"]
    two = open_cache(groups_root)
    (columns,) = columns_of(Method(name="mine", terms=(Leap(teacher=(f"{GROUP}:",)),)), two, "int8")
    assert [column.label for column in columns] == [f"{GROUP}:blocks.0/patch (fp32)", f"{GROUP}:blocks.1/patch (int8)"]
    with pytest.raises(TapError, match=r"blocks of a teacher .* could be any of"):
        columns_of(Method(name="mine", terms=(Leap(),)), two, None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher": ("blocks.0/prefix",)}, "compares patch tokens, got teacher=blocks.0/prefix"),
        ({"student_block": (0, 1)}, r"trains one block of the student, got student_block=\(0, 1\)"),
        ({"threshold": 1.5}, "threshold must be between 0 and 1, got 1.5"),
        ({"alpha": 0.0}, "alpha must be above 0, up to 1, got 0"),
        ({"max_steps": 0}, "max_steps must be at least 1, got 0"),
        ({"start": "last"}, "start must be one of closest, first, got 'last'"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Leap(**settings)


def test_teachers_that_are_refused() -> None:
    wider = [*targets(1), pack(draw(6, 16, 36), GRID, tap="blocks.1/patch")]
    with pytest.raises(ValueError, match=r"leap has one projection, and its teacher's tokens differ: .*blocks.1/patch"):
        made(Leap(), wider)
    with pytest.raises(TapError, match="the term leap needs patch tokens of a teacher's blocks; the cache holds none"):
        made(Leap(), [])


def test_its_error_falls_in_training_and_its_state_is_in_the_checkpoint(blocks_root: Path, tmp_path: Path) -> None:
    term = Leap(start="first", threshold=1.0)
    support.check_training(blocks_root, tmp_path / "run", term, factor=0.8)
    held: Any = Checkpoints(tmp_path / "run", keep=3).load_latest()
    weights = held["trainer"]["model"]
    assert int(weights["adapters.leap.forwards"]) == 30 and int(weights["adapters.leap.target"]) == 0
