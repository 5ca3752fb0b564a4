from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from kdcache.cache import Cache
from kdcache.methods.base import Method
from kdcache.methods.feature import feature
from kdcache.methods.lift import lift
from kdcache.methods.wide_last import wide_last
from kdcache.students.lift import Lift, LiftChange
from kdcache.terms.tokens import Tokens
from kdcache.train.setup import prepare
from kdcache.train.step import DistillationStep
from tests.conftest import GROUP
from tests.methods.support import one_batch
from tests.train.support import tiny_run


def test_terms_and_logits(tiny_cache: Cache) -> None:
    step = prepare(tiny_run(), tiny_cache).step
    batch = one_batch(tiny_cache)
    targets = {name: batch.targets[f"{GROUP}/{name}"] for name in ("head-logits-fp16", "blocks-1-patch-fp16")}
    with pytest.raises(ValueError, match="give exactly those"):
        step(batch.images, batch.labels, targets)
    targets = {f"{GROUP}/{name}": values for name, values in targets.items()}
    terms, logits = step(batch.images, batch.labels, targets)
    assert set(terms) == {"loss", "cross-entropy", "logits", "tokens"}
    assert logits.shape == (8, 10)
    terms["loss"].backward()
    assert [name for name, parameter in step.named_parameters() if parameter.grad is None] == []


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
@pytest.mark.parametrize("method", [lift, feature, wide_last])
@pytest.mark.slow
def test_a_compiled_step_is_one_graph(tiny_cache: Cache, method: Callable[..., Method]) -> None:
    """What torch.compile cannot follow it runs eagerly, and only the time tells."""
    step = prepare(tiny_run(method=method(teacher=("blocks.1/patch",))), tiny_cache).step
    batch = one_batch(tiny_cache)
    wanted = {column.name for bound in step.terms for column in bound.columns}
    given = batch.normalized(slice(None)), batch.labels, {name: batch.targets[name] for name in wanted}
    torch._dynamo.reset()
    compiled: Any = torch.compile(step, fullgraph=True, backend="aot_eager")
    (found, _), (eager, _) = compiled(*given), step(*given)
    torch.testing.assert_close(found, eager)
    found["loss"].backward()
    assert [name for name, parameter in step.named_parameters() if parameter.grad is None] == []


def test_whether_the_head_is_trained(tiny_cache: Cache) -> None:
    assert prepare(tiny_run(), tiny_cache).step.reads_logits
    tokens = Method(name="mine", terms=(Tokens(teacher=("blocks.-1/patch:fp16",)),))
    assert not prepare(tiny_run(method=tokens), tiny_cache).step.reads_logits


def test_embeddings_are_not_decayed(tiny_cache: Cache) -> None:
    step = prepare(tiny_run(), tiny_cache).step
    names = {name for name, _ in step.named_parameters()}
    assert step.no_weight_decay() & names == {"student.model.trunk.pos_embed", "student.model.trunk.cls_token"}
    assert torch.is_grad_enabled()


def losses_and_gradients(step: DistillationStep, cache: Cache) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    batch = one_batch(cache)
    wanted = {column.name for bound in step.terms for column in bound.columns}
    step.zero_grad()
    terms, logits = step(batch.normalized(slice(None)), batch.labels, {name: batch.targets[name] for name in wanted})
    terms["loss"].backward()
    gradients = {name: each.grad for name, each in step.named_parameters() if each.grad is not None}
    assert len(gradients) == len(list(step.parameters()))
    return {**terms, "logits": logits}, gradients


def never(*_: Any) -> None:
    raise AssertionError("not this form")


@pytest.mark.parametrize(
    "tap", ["blocks.0/patch:fp32", "blocks.-1/patch:fp16", "blocks.-1/patch:bf16", "blocks.-1/patch:int8"]
)
def test_lifted_tokens_are_not_formed_for_squared_errors(
    tiny_cache: Cache, tap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses, logits and gradients are those of the lifted tokens themselves."""
    step = prepare(tiny_run("data.codec=none", method=lift(logit_weight=0, teacher=(tap,))), tiny_cache).step
    with monkeypatch.context() as patched:
        patched.setattr(Lift, "finish", never)
        found = losses_and_gradients(step, tiny_cache)
    monkeypatch.setattr(step, "_form_change", True)
    monkeypatch.setattr(Lift, "finish_unformed", never)
    for ours, formed in zip(found, losses_and_gradients(step, tiny_cache), strict=True):
        assert ours.keys() == formed.keys()
        for name, values in ours.items():
            error = (values - formed[name]).norm() / formed[name].norm()
            assert error < 1e-6, (name, error)


@pytest.mark.parametrize(
    "terms",
    [
        (Tokens(loss="cosine", adapter="none", teacher=("blocks.-1/patch:fp16",)),),
        (Tokens(adapter="none", resize="student", teacher=("blocks.-1/patch:fp16",)),),
        (
            Tokens(adapter="none", teacher=("blocks.-1/patch:fp16",)),
            Tokens(loss="l1", adapter="none", teacher=("blocks.-1/patch:fp16",)),
        ),
    ],
    ids=["another distance", "resized", "one of two"],
)
def test_lifted_tokens_are_formed_where_a_term_needs_them(
    tiny_cache: Cache, terms: tuple[Tokens, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lift, "finish_unformed", never)
    method = Method(name="mine", terms=(*lift(logit_weight=0, feature_weight=0).terms, *terms), change=LiftChange())
    losses_and_gradients(prepare(tiny_run("data.codec=none", method=method), tiny_cache).step, tiny_cache)


def test_the_control_without_features_forms_no_lifted_tokens(
    tiny_cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weight 0 keeps the projection in the student and asks for its logits alone."""
    step = prepare(tiny_run("data.codec=none", method=lift(feature_weight=0, logit_weight=0)), tiny_cache).step
    assert len(step.terms) == 1
    monkeypatch.setattr(Lift, "finish", never)
    losses_and_gradients(step, tiny_cache)
