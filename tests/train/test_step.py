import pytest
import torch

from kdcache.cache import Cache
from kdcache.methods.base import Method
from kdcache.terms.tokens import Tokens
from kdcache.train.setup import prepare
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


def test_whether_the_head_is_trained(tiny_cache: Cache) -> None:
    assert prepare(tiny_run(), tiny_cache).step.reads_logits
    tokens = Method(name="mine", terms=(Tokens(teacher=("blocks.-1/patch:fp16",)),))
    assert not prepare(tiny_run(method=tokens), tiny_cache).step.reads_logits


def test_embeddings_are_not_decayed(tiny_cache: Cache) -> None:
    step = prepare(tiny_run(), tiny_cache).step
    names = {name for name, _ in step.named_parameters()}
    assert step.no_weight_decay() & names == {"student.model.trunk.pos_embed", "student.model.trunk.cls_token"}
    assert torch.is_grad_enabled()
