"""The Gram term: definition, widths, packed targets, training."""

from pathlib import Path

import pytest
from torch import Tensor

from kdcache.terms.gram import Gram
from tests.terms import support
from tests.terms.support import draw, loss_of, pack


def cosines(tokens: Tensor) -> Tensor:
    lengths = tokens.square().sum(1).sqrt()
    return (tokens @ tokens.T) / (lengths[:, None] * lengths[None, :])


@pytest.mark.parametrize("width", [6, 24, 40])
def test_the_mean_squared_difference_of_cosines(width: int) -> None:
    student, teacher = draw(2, 16, width), draw(2, 16, 24, seed=1)
    total = 0.0
    for image in range(2):
        mine, theirs = cosines(student[image]), cosines(teacher[image])
        total += float((mine - theirs).square().sum())
    assert float(loss_of(Gram(), student, pack(teacher, (4, 4)))) == pytest.approx(total / (2 * 16 * 16), rel=1e-5)


def test_the_transform_changes_the_angles() -> None:
    """Tokens that share a large mean are all alike; without it they are not."""
    student, teacher = draw(2, 16, 12, offset=0), draw(2, 16, 24, seed=1, offset=50)
    plain, centred = (float(loss_of(Gram(transform=name), student, pack(teacher, (4, 4)))) for name in ("none", "mean"))
    assert plain > 0.5 and centred < 0.3


def test_packed_targets() -> None:
    support.check_packed_targets(Gram(), draw(4, 16, 12), draw(4, 16, 24, seed=1), (4, 4))


def test_bf16_autocast() -> None:
    support.check_autocast(Gram(), draw(4, 16, 12), draw(4, 16, 24, seed=1), (4, 4), rtol=5e-3)


def test_accumulation() -> None:
    support.check_accumulation(Gram(), draw(4, 16, 12), draw(4, 16, 24, seed=1), (4, 4))


def test_nothing_is_trained_beside_the_student() -> None:
    student, targets = draw(2, 16, 12), pack(draw(2, 16, 24, seed=1), (4, 4))
    assert list(support.make_modules(Gram(), [student], [targets]).parameters()) == []


def test_a_single_token_is_refused() -> None:
    student, targets = draw(2, 1, 12), pack(draw(2, 1, 24, seed=1), kind="prefix")
    with pytest.raises(ValueError, match=r"the term gram compares .* there is one at a:blocks.1/prefix \(fp32\)"):
        loss_of(Gram(), student, targets)


def test_it_falls_in_training(tiny_root: Path, tmp_path: Path) -> None:
    term = Gram(weight=1.0, teacher=("blocks.1/patch:fp16",))
    support.check_training(tiny_root, tmp_path / "run", term, factor=0.7)
