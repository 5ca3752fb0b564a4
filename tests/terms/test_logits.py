import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from kdcache.cache import Cache
from kdcache.cache.codecs import make_codec
from kdcache.stream.config import StreamConfig
from kdcache.stream.loader import CacheLoader
from kdcache.stream.targets import PackedTargets
from kdcache.terms.base import Inputs, Site, TeacherNeed
from kdcache.terms.logits import Logits
from tests.cache.codecs.conformance import Case, packed_targets
from tests.conftest import GROUP
from tests.terms import support
from tests.terms.support import draw


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> float:
    """KL(teacher || student) at a temperature, times its square, mean over images."""
    total = 0.0
    for own, other in zip(student.tolist(), teacher.tolist(), strict=True):
        q, p = ([math.exp(value / temperature) for value in each] for each in (own, other))
        total += sum(a / sum(p) * math.log(a / sum(p) / (b / sum(q))) for a, b in zip(p, q, strict=True))
    return total / len(student) * temperature**2


@pytest.fixture
def stored(tiny_cache: Cache) -> dict[str, PackedTargets]:
    """Dense and top-3 logits of eight views, by codec."""
    columns = [tiny_cache.find_column(kind="logits", codec=codec) for codec in ("fp16", "topk")]
    batch = next(iter(CacheLoader(tiny_cache, columns, StreamConfig(batch_size=8, num_threads=1)))).clone()
    return {column.codec: batch.targets[column.name] for column in columns}


def loss(term: Logits, student: Tensor, targets: PackedTargets) -> Tensor:
    modules = term.modules(Site([], [targets.column], lambda column: pytest.fail("no statistics")))
    inputs = Inputs(student, torch.zeros(len(student)), [], [targets], torch.zeros(len(student), 3, 16, 16))
    return term(inputs, modules)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_dense_logits_by_hand(stored: dict[str, PackedTargets], temperature: float) -> None:
    student = draw(8, 10)
    found = loss(Logits(temperature=temperature), student, stored["fp16"])
    expected = divergence(student, stored["fp16"].decode(), temperature)
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_top_k_is_a_lower_bound_of_the_dense_one(stored: dict[str, PackedTargets]) -> None:
    """The events are the three stored classes and all others together."""
    student = draw(8, 10)
    found = float(loss(Logits(), student, stored["topk"]))
    index = stored["topk"].fields["index"].long()
    both: list[Tensor] = []
    for logits in (student, stored["fp16"].decode()):
        kept = logits.softmax(1).gather(1, index)
        both.append(torch.cat([kept, 1 - kept.sum(1, keepdim=True)], 1).log())
    assert found == pytest.approx(divergence(both[0], both[1], 1.0), rel=1e-2)
    assert 0 < found < float(loss(Logits(), student, stored["fp16"]))


def test_the_gradient_of_sampled_logits_is_the_dense_one_on_average() -> None:
    """20,000 draws from one distribution; top-k, which knows nothing of its other classes, is the control."""
    teacher, student = 2 * draw(1, 20), draw(1, 20).requires_grad_()
    exact = (student.softmax(1) - teacher.softmax(1)).detach()
    logits = (teacher + 1e-3 * torch.arange(20_000)[:, None]).numpy()
    error: dict[str, Tensor] = {}
    for name in ("sampled", "topk"):
        codec = make_codec(name, {"k": 4})
        targets = packed_targets(Case(codec, (20,), np.abs), codec.encode(logits))
        value = loss(Logits(), student.expand(len(logits), 20), targets)
        (gradient,) = torch.autograd.grad(value, student)
        error[name] = (gradient - exact).abs().max()
    assert error["sampled"] < 3e-3
    assert error["topk"] > 5 * error["sampled"]


@pytest.mark.parametrize("codec", ["fp16", "topk"])
def test_bf16_and_accumulation(stored: dict[str, PackedTargets], codec: str) -> None:
    student, targets = draw(8, 10), stored[codec]
    whole = loss(Logits(), student, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = loss(Logits(), student.bfloat16(), targets)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, whole, rtol=2e-2, atol=0)
    halves = [loss(Logits(), student[part], targets.rows(part)) for part in (slice(4), slice(4, 8))]
    torch.testing.assert_close(sum(halves) / 2, whole)


def test_what_it_reads() -> None:
    assert list(Logits().needs().teacher) == [TeacherNeed("logits")]
    named = Logits(teacher=f"{GROUP}:head/logits:topk").needs()
    assert list(named.teacher) == [TeacherNeed("logits", "head/logits", GROUP, "topk")]
    assert not named.student and not named.labels


def test_what_is_refused(stored: dict[str, PackedTargets]) -> None:
    with pytest.raises(ValueError, match="temperature must be > 0, got 0"):
        Logits(temperature=0)
    with pytest.raises(ValueError, match=r"the term logits reads logits, got teacher=blocks.0/patch"):
        Logits(teacher="blocks.0/patch")
    with pytest.raises(ValueError, match=r"temperature 2.0 needs all logits, and column .*topk.*set temperature=1"):
        loss(Logits(temperature=2.0), draw(8, 10), stored["topk"])


@pytest.mark.parametrize("codec", ["fp16", "topk"])
@pytest.mark.slow
def test_it_falls_in_training(tiny_root: Path, tmp_path: Path, codec: str) -> None:
    term = Logits(weight=1.0, teacher=f"head/logits:{codec}")
    support.check_training(tiny_root, tmp_path / "run", term, factor=0.9)
