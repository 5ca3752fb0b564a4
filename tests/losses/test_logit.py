import pytest
import torch
from torch import Tensor

from kdcache.cache.codecs import make_codec
from kdcache.losses import cross_entropy, logit_kd, top_k_logit_kd


def logits(seed: int, classes: int = 20) -> Tensor:
    return torch.randn(6, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3


def kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    p, q = (torch.softmax(each / temperature, dim=1) for each in (teacher, student))
    return (p * (p / q).log()).sum(dim=1).mean() * temperature**2


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kl_by_hand(temperature: float) -> None:
    student, teacher = logits(0), logits(1)
    found = logit_kd(student.float(), teacher.float(), temperature=temperature)
    torch.testing.assert_close(found.double(), kl(student, teacher, temperature), rtol=1e-5, atol=1e-6)


def test_kl_is_zero_for_equal_logits_up_to_a_constant() -> None:
    assert float(logit_kd(logits(0).float() + 5, logits(0).float(), temperature=2)) == pytest.approx(0, abs=1e-6)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="temperature must be > 0, got 0"):
        logit_kd(logits(0), logits(1), temperature=0)
    with pytest.raises(ValueError, match="number of classes"):
        logit_kd(logits(0), logits(1, 10), temperature=1)


def top_k(teacher: Tensor, k: int) -> dict[str, Tensor]:
    fields = make_codec("topk", {"k": k}).encode(teacher.float().numpy())
    return {name: torch.from_numpy(values) for name, values in fields.items()}


def test_top_k_of_all_classes_is_the_whole_kl() -> None:
    student, teacher = logits(0), logits(1)
    found = top_k_logit_kd(student.float(), **top_k(teacher, 20))
    torch.testing.assert_close(found.double(), kl(student, teacher), rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("k", [1, 3, 19])
def test_top_k_is_the_kl_of_k_classes_and_one_event(k: int) -> None:
    student, teacher = logits(0), logits(1)
    p, q = torch.softmax(teacher, 1), torch.softmax(student, 1)
    kept = teacher.topk(k, dim=1).indices
    grouped = [torch.cat([each.gather(1, kept), 1 - each.gather(1, kept).sum(1, keepdim=True)], 1) for each in (p, q)]
    exact = (grouped[0] * (grouped[0] / grouped[1]).log()).sum(1).mean()
    found = top_k_logit_kd(student.float(), **top_k(teacher, k))
    torch.testing.assert_close(found.double(), exact, rtol=5e-3, atol=1e-3)
    assert float(found) <= float(kl(student, teacher)) + 1e-3


@pytest.mark.parametrize("k", [1, 5, 20])
def test_top_k_has_finite_gradients_even_for_certain_teachers(k: int) -> None:
    teacher = torch.full((2, 20), -50.0)
    teacher[:, 3] = 50
    student = torch.zeros(2, 20, requires_grad=True)
    top_k_logit_kd(student, **top_k(teacher, k)).backward()
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()
    assert student.grad[0, 3] < 0


def test_label_smoothing() -> None:
    student, labels = logits(0), torch.tensor([0, 1, 2, 3, 4, 5])
    hard = -torch.log_softmax(student, 1)
    exact = (0.9 * hard.gather(1, labels[:, None])[:, 0] + 0.1 * hard.mean(1)).mean()
    found = cross_entropy(student.half(), labels, label_smoothing=0.1)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-3, atol=1e-3)
