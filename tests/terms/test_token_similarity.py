"""The token-similarity term: definition, widths, packed targets, training."""

from pathlib import Path

import pytest
import torch

from kdcache.terms.token_similarity import TokenSimilarity
from tests.terms import support
from tests.terms.support import draw, loss_of, pack


@pytest.mark.parametrize("temperature", [0.07, 0.5])
@pytest.mark.parametrize("width", [6, 24, 40])
def test_the_divergence_of_softmaxed_cosines(width: int, temperature: float) -> None:
    student, teacher = draw(2, 16, width), draw(2, 16, 24, seed=1)
    distributions = [
        torch.softmax(
            torch.stack([torch.cosine_similarity(image[:, None], image[None], dim=-1) for image in each.double()])
            / temperature,
            dim=-1,
        )
        for each in (teacher, student)
    ]
    expected = (distributions[0] * (distributions[0] / distributions[1]).log()).sum(-1).mean()
    found = loss_of(TokenSimilarity(temperature=temperature), student, pack(teacher, (4, 4)))
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_the_teacher_itself_loses_nothing() -> None:
    """Turned into more channels, the teacher's tokens keep their angles."""
    teacher = draw(2, 16, 12)
    turn, _ = torch.linalg.qr(draw(20, 12, seed=2))
    found = loss_of(TokenSimilarity(), teacher @ turn.T, pack(teacher, (4, 4)))
    assert float(found) == pytest.approx(0, abs=1e-6)


def test_packed_targets() -> None:
    support.check_packed_targets(TokenSimilarity(), draw(4, 16, 12), draw(4, 16, 24, seed=1), (4, 4))


def test_bf16_autocast() -> None:
    support.check_autocast(TokenSimilarity(), draw(4, 16, 12), draw(4, 16, 24, seed=1), (4, 4), rtol=1e-2)


def test_accumulation() -> None:
    support.check_accumulation(TokenSimilarity(), draw(4, 16, 12), draw(4, 16, 24, seed=1), (4, 4))


def test_nothing_is_trained_beside_the_student() -> None:
    student, targets = draw(2, 16, 12), pack(draw(2, 16, 24, seed=1), (4, 4))
    assert list(support.make_modules(TokenSimilarity(), [student], [targets]).parameters()) == []


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="temperature must be > 0, got -1"):
        TokenSimilarity(temperature=-1)
    student, targets = draw(2, 1, 12), pack(draw(2, 24, seed=1), kind="embedding", tap="head/embedding")
    with pytest.raises(ValueError, match=r"the term token-similarity compares .* there is one at a:head/embedding"):
        loss_of(TokenSimilarity(), student, targets)


@pytest.mark.slow
def test_it_falls_in_training(tiny_root: Path, tmp_path: Path) -> None:
    term = TokenSimilarity(weight=1.0, teacher=("blocks.1/patch:bf16",))
    support.check_training(tiny_root, tmp_path / "run", term, factor=0.7)
