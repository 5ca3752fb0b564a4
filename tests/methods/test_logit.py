import pytest

from kdcache.methods.logit import logit


def test_labels_and_logits_share_the_weight() -> None:
    method = logit(logit_weight=0.75)
    assert {term.name: term.weight for term in method.terms} == {"cross-entropy": 0.25, "logits": 0.75}


def test_all_on_one_side() -> None:
    assert logit(logit_weight=0).labels == ["cross-entropy"]
    assert not logit(logit_weight=1).needs_labels
    with pytest.raises(ValueError, match=r"logit_weight must be between 0 and 1, got 1.5"):
        logit(logit_weight=1.5)
