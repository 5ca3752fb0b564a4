import math

import pytest
import torch
from torch import Tensor

from kdcache.losses import gram_loss, linear_cka, token_similarities, token_similarity_kd


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(one: Tensor, other: Tensor) -> float:
    return float(one @ other / math.sqrt(float(one @ one) * float(other @ other)))


def cosines(tokens: Tensor) -> list[list[list[float]]]:
    return [[[cosine(one, other) for other in image] for one in image] for image in tokens]


def test_similarities_one_by_one() -> None:
    tokens = draw(2, 5, 7)
    torch.testing.assert_close(token_similarities(tokens), torch.tensor(cosines(tokens), dtype=torch.float64))


def test_a_token_of_zeros_is_like_none() -> None:
    tokens = draw(1, 3, 4).index_fill(1, torch.tensor([1]), 0).requires_grad_()
    found = token_similarities(tokens)
    assert found[0, 1].tolist() == [0, 0, 0]
    found.sum().backward()
    assert tokens.grad is not None and tokens.grad.isfinite().all()


def test_gram_by_hand() -> None:
    student, teacher = draw(2, 5, 3), draw(2, 5, 7, seed=1)
    squares = [
        (a - b) ** 2
        for mine, theirs in zip(cosines(student), cosines(teacher), strict=True)
        for row, other in zip(mine, theirs, strict=True)
        for a, b in zip(row, other, strict=True)
    ]
    assert float(gram_loss(student, teacher)) == pytest.approx(sum(squares) / (2 * 5 * 5), rel=1e-12)


def test_gram_is_4_at_most() -> None:
    one = torch.tensor([[[1.0], [1.0]]])
    other = torch.tensor([[[1.0], [-1.0]]])
    assert float(gram_loss(one, other)) == 2  # both off-diagonal entries of four are 2 apart
    assert float(gram_loss(one, one)) == 0


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_token_similarity_by_hand(temperature: float) -> None:
    student, teacher = draw(2, 5, 3), draw(2, 5, 7, seed=1)
    total = 0.0
    for mine, theirs in zip(cosines(student), cosines(teacher), strict=True):
        for row, other in zip(mine, theirs, strict=True):
            q, p = ([math.exp(value / temperature) for value in each] for each in (row, other))
            total += sum(a / sum(p) * math.log(a / sum(p) / (b / sum(q))) for a, b in zip(p, q, strict=True))
    found = token_similarity_kd(student, teacher, temperature=temperature)
    assert float(found) == pytest.approx(total / (2 * 5), rel=1e-10)


def losses() -> list[object]:
    return [
        pytest.param(gram_loss, id="gram"),
        pytest.param(lambda s, t: token_similarity_kd(s, t, temperature=0.07), id="token-similarity"),
    ]


@pytest.mark.parametrize("loss", losses())
def test_gradients_by_finite_differences(loss: object) -> None:
    student, teacher = draw(2, 4, 3).requires_grad_(), draw(2, 4, 5, seed=1)
    assert torch.autograd.gradcheck(lambda tokens: loss(tokens, teacher), (student,))


@pytest.mark.parametrize("loss", losses())
def test_rotation_and_length_do_not_matter(loss: object) -> None:
    """Only angles between tokens count, so tokens turned and scaled one by one lose nothing."""
    tokens = draw(2, 6, 5)
    turn, _ = torch.linalg.qr(draw(9, 5, seed=2))
    lengths = draw(2, 6, 1, seed=3).abs() + 0.1
    assert float(loss(tokens, tokens @ turn.T * lengths)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("loss", losses())
def test_half_precision_is_computed_in_single(loss: object) -> None:
    student, teacher = draw(2, 6, 5).bfloat16(), draw(2, 6, 7, seed=1).half()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(student, teacher)
    assert found.dtype == torch.float32
    expected = loss(student.double(), teacher.double())
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("loss", losses())
def test_other_token_counts_are_named(loss: object) -> None:
    with pytest.raises(ValueError, match=r"\(2, 4, 3\) and teacher tokens \(2, 5, 3\) differ in images or tokens"):
        loss(draw(2, 4, 3), draw(2, 5, 3))


def test_the_temperature_is_above_zero() -> None:
    with pytest.raises(ValueError, match=r"temperature must be > 0, got 0"):
        token_similarity_kd(draw(1, 2, 2), draw(1, 2, 2), temperature=0)


def test_cka_from_gram_matrices() -> None:
    """By its definition on samples: HSIC of the centred Gram matrices, not on features as the function computes it."""
    one, other = draw(3, 5, 4), draw(3, 5, 7, seed=1)
    centre = torch.eye(15, dtype=torch.float64) - 1 / 15
    grams = [centre @ rows @ rows.T @ centre for rows in (one.flatten(0, 1), other.flatten(0, 1))]
    expected = (grams[0] * grams[1]).sum() / (grams[0].norm() * grams[1].norm())
    assert float(linear_cka(one, other)) == pytest.approx(float(expected), rel=1e-12)
    assert 0 < float(expected) < 1


def test_cka_is_1_after_a_turn_a_scale_and_an_offset() -> None:
    tokens = draw(3, 5, 4)
    turn, _ = torch.linalg.qr(draw(6, 4, seed=2))
    assert float(linear_cka(tokens, 3 * tokens @ turn.T + draw(6, seed=3))) == pytest.approx(1, rel=1e-12)
    assert float(linear_cka(tokens, torch.ones(3, 5, 2, dtype=torch.float64))) == 0


def test_cka_in_half_precision_is_computed_in_single() -> None:
    one, other = draw(3, 5, 4).bfloat16(), draw(3, 5, 7, seed=1).half()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = linear_cka(one, other)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(float(linear_cka(one.double(), other.double())), rel=1e-5)
    with pytest.raises(ValueError, match="differ in images or tokens"):
        linear_cka(one, other[:, 1:])
