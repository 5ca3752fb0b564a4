import torch

from kdcache.cache import Cache
from kdcache.train.setup import prepare
from tests.methods.support import one_batch, targets_of
from tests.train.support import tiny_run


def test_terms_and_logits(tiny_cache: Cache) -> None:
    step = prepare(tiny_run(), tiny_cache).step
    batch = one_batch(tiny_cache)
    targets = targets_of(batch, logits="head-logits-fp16", features="blocks-1-patch-fp16")
    terms, logits = step(batch.images, batch.labels, targets)
    assert set(terms) == {"loss", "ce", "kl", "feature"}
    assert logits.shape == (8, 10)
    terms["loss"].backward()
    assert [name for name, parameter in step.named_parameters() if parameter.grad is None] == []


def test_embeddings_are_not_decayed(tiny_cache: Cache) -> None:
    step = prepare(tiny_run(), tiny_cache).step
    names = {name for name, _ in step.named_parameters()}
    assert step.no_weight_decay() & names == {"student.model.trunk.pos_embed", "student.model.trunk.cls_token"}
    assert torch.is_grad_enabled()
