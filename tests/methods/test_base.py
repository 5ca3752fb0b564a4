import pytest
import torch
import torch.nn.functional as F

from kdcache.cache import Cache
from kdcache.errors import UsageError
from kdcache.methods import METHODS, load_method
from kdcache.methods.base import Method
from kdcache.methods.lift import lift
from kdcache.methods.none import none
from kdcache.terms.cross_entropy import CrossEntropy
from kdcache.terms.logits import Logits
from kdcache.terms.tokens import Tokens
from kdcache.train.setup import prepare
from tests.conftest import GROUP
from tests.methods.support import one_batch
from tests.train.support import tiny_run


def test_the_total_is_the_papers(tiny_cache: Cache) -> None:
    """(1 - a) CE + a KL + w MSE, with label smoothing 0.1, a = 0.9, T = 1, w = 0.2."""
    step = prepare(tiny_run(), tiny_cache).step
    batch = one_batch(tiny_cache)
    names = [f"{GROUP}/head-logits-fp16", f"{GROUP}/blocks-1-patch-fp16"]
    targets = {name: batch.targets[name] for name in names}
    values, logits = step(batch.images, batch.labels, targets)
    tokens = step.student.outputs(batch.images).tokens[0]
    ce = F.cross_entropy(logits, batch.labels, label_smoothing=0.1)
    teacher = torch.softmax(targets[names[0]].decode(), dim=1)
    kl = (teacher * (teacher.log() - torch.log_softmax(logits, dim=1))).sum(dim=1).mean()
    mse = ((tokens - targets[names[1]].decode()) ** 2).mean()
    torch.testing.assert_close(values["cross-entropy"], ce)
    torch.testing.assert_close(values["logits"], kl, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(values["tokens"], mse)
    torch.testing.assert_close(values["loss"], 0.1 * ce + 0.9 * kl + 0.2 * mse, rtol=1e-4, atol=1e-6)


def test_terms_of_weight_zero_are_left_out() -> None:
    method = Method(name="mine", terms=(CrossEntropy(), Logits(weight=0)))
    assert method.labels == ["cross-entropy"]
    assert method.needs_labels
    assert not Method(name="mine", terms=(Logits(),)).needs_labels
    with pytest.raises(ValueError, match="method mine has no term of a weight above 0"):
        Method(name="mine", terms=(Logits(weight=0),))


def test_terms_that_share_a_name_are_numbered() -> None:
    terms = (Tokens(teacher=("a:blocks.0/patch",)), CrossEntropy(), Tokens(teacher=("b:blocks.0/patch",)))
    assert Method(name="mine", terms=terms).labels == ["tokens", "cross-entropy", "tokens-2"]


def test_terms_take_the_place_of_those_of_their_name() -> None:
    method = lift()
    changed = method.with_terms([Tokens(weight=1.0), Tokens(weight=2.0)])
    assert [(term.name, term.weight) for term in changed.terms] == [
        ("cross-entropy", 1 - 0.9),
        ("logits", 0.9),
        ("tokens", 1.0),
        ("tokens", 2.0),
    ]
    assert changed.change == method.change
    assert [term.name for term in none().with_terms([Logits()]).terms] == ["cross-entropy", "logits"]
    assert [term.name for term in method.with_terms([Logits(weight=0)]).active] == ["cross-entropy", "tokens"]
    with pytest.raises(ValueError, match="term logits has weight 0 and method none has none, so it would be ignored"):
        none().with_terms([Logits(weight=0)])


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_called_what_users_type(name: str) -> None:
    assert load_method(name)().name == name


def test_an_unknown_method_lists_the_known() -> None:
    with pytest.raises(UsageError, match="unknown method 'magic'; there are none, logit"):
        load_method("magic")
