"""The UNIC term: definition, several teachers, dropping, heads, training."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from kdcache.stream.targets import PackedTargets, Payload
from kdcache.terms.unic import Unic
from tests.terms import support
from tests.terms.support import apply, draw, make_modules, pack


def distance(student: Tensor, teacher: Tensor, head: nn.Module) -> Tensor:
    """The published distance of each image on targets standardised by channel, written out."""
    rows = teacher.reshape(-1, teacher.shape[-1])
    wanted = (teacher - rows.mean(0)) / rows.var(0, correction=0).sqrt()
    with torch.no_grad():
        found = head(student)
    cosine = (found * wanted).sum(-1) / (found.norm(dim=-1) * wanted.norm(dim=-1))
    gap = (found - wanted).abs()
    smooth = torch.where(gap < 1, gap.square() / 2, gap - 0.5).mean(-1)
    return (0.5 * (1 - cosine) + 0.5 * smooth).mean(1)


def two_teachers() -> tuple[list[Tensor], list[Tensor], list[PackedTargets]]:
    """Student tokens, targets and packed targets: patch and class tokens of teacher a, patch tokens of teacher b."""
    patch, prefix = draw(6, 16, 12), draw(6, 1, 12, seed=9)
    values = [draw(6, 16, 24, seed=1), draw(6, 1, 24, seed=2), 3 * draw(6, 16, 36, seed=3)]
    packed = [
        pack(values[0], (4, 4), group="a"),
        pack(values[1], group="a", kind="prefix"),
        pack(values[2], (4, 4), group="b"),
    ]
    return [patch, prefix, patch], values, packed


def per_teacher(term: Unic) -> tuple[Tensor, Callable[[], Tensor]]:
    """The distance of each image to teachers a and b, (6, 2), and a function that gives the term's loss."""
    student, values, packed = two_teachers()
    modules = make_modules(term, student, packed)
    each = [distance(s, t, pair.adapter) for s, t, pair in zip(student, values, modules, strict=True)]
    expected = torch.stack([(each[0] + each[1]) / 2, each[2]], 1)
    return expected, lambda: apply(term, student, packed, modules).detach()


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_one_teacher(head: str) -> None:
    term, student, teacher = Unic(head=head), draw(4, 16, 12), draw(4, 16, 24, seed=1)
    targets = pack(teacher, (4, 4))
    modules = make_modules(term, [student], [targets])
    expected = distance(student, teacher, modules[0].adapter).mean()
    found = apply(term, [student], [targets], modules).detach()
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_without_dropping_teachers_weigh_the_same_and_so_do_taps_of_one() -> None:
    expected, loss = per_teacher(Unic(drop=0.0))
    assert float(loss()) == pytest.approx(float(expected.mean()), rel=1e-5)


def test_each_image_keeps_its_worst_teacher() -> None:
    expected, loss = per_teacher(Unic(drop=1.0))
    assert expected.argmax(1).unique().tolist() == [0, 1]
    assert float(loss()) == pytest.approx(float(expected.max(1).values.mean()), rel=1e-5)


def test_dropping_is_drawn_from_torchs_state() -> None:
    expected, loss = per_teacher(Unic())
    found: list[float] = []
    for seed in range(6):
        torch.manual_seed(seed)
        found.append(float(loss()))
    torch.manual_seed(0)
    assert float(loss()) == found[0]
    assert len(set(found)) > 1
    worst = float(expected.max(1).values.mean())
    assert all(float(expected.mean()) - 1e-5 <= each <= worst + 1e-5 for each in found)


def test_the_gradient_by_finite_differences() -> None:
    term = Unic(transform="none")
    adapter = term.make_adapter(support.TokenShape(4, 3, (2, 2)), support.make_column((4, 5), (2, 2))).double()
    student = draw(2, 4, 3, dtype=torch.float64).requires_grad_()
    targets = Payload(draw(2, 4, 5, seed=1), None, None)
    inputs = (student, *adapter.parameters())
    assert torch.autograd.gradcheck(lambda *each: term.compare(each[0], targets, adapter), inputs)


def test_a_head_for_each_tap() -> None:
    student, _, packed = two_teachers()
    modules = make_modules(Unic(head="mlp"), student, packed)
    sizes = [[layer.weight.shape for layer in pair.adapter if isinstance(layer, nn.Linear)] for pair in modules]
    assert sizes == [[(48, 12), (24, 48)], [(48, 12), (24, 48)], [(48, 12), (36, 48)]]


def test_packed_targets() -> None:
    support.check_packed_targets(Unic(transform="none"), draw(4, 16, 12), draw(4, 16, 24, seed=1), (4, 4))


def test_bf16_autocast() -> None:
    support.check_autocast(Unic(), draw(4, 16, 12), draw(4, 16, 24, seed=1), (4, 4), rtol=1e-2)


def test_accumulation_of_one_teacher() -> None:
    support.check_accumulation(Unic(), draw(4, 16, 12), draw(4, 16, 24, seed=1), (4, 4))


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="head must be one of linear, mlp, got 'conv'"):
        Unic(head="conv")
    with pytest.raises(ValueError, match=r"drop must be between 0 and 1, got 1.5"):
        Unic(drop=1.5)
    with pytest.raises(ValueError, match="the term unic compares tokens, got teacher=head/logits"):
        Unic(teacher=("head/logits",))


def test_it_falls_in_training_from_two_teachers(groups_root: Path, tmp_path: Path) -> None:
    taps = ("vit-tiny-patch16-224:blocks.1/patch:fp16", "vit-tiny-patch16-224:blocks.1/prefix", "wide:blocks.1/patch")
    support.check_training(groups_root, tmp_path / "run", Unic(weight=1.0, teacher=taps), factor=0.8)
