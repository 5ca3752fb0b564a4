import pytest

from kdcache.cache import Cache
from kdcache.methods import LogitConfig
from kdcache.methods.logit import Logit
from tests.methods.support import one_batch, student_says, targets_of


@pytest.mark.parametrize("column", ["head-logits-fp16", "head-logits-topk3"])
def test_dense_and_top_k(tiny_cache: Cache, column: str) -> None:
    batch = one_batch(tiny_cache)
    logits, _ = student_says(4)
    terms = Logit(LogitConfig()).loss(logits, None, batch.labels, targets_of(batch, logits=column), None)
    assert float(terms["loss"]) == pytest.approx(0.1 * float(terms["ce"]) + 0.9 * float(terms["kl"]), rel=1e-5)
    assert float(terms["kl"]) > 0
