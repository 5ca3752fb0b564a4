import pytest

from kdcache.methods import load_method
from kdcache.methods.spectral import spectral
from kdcache.terms.spectral import Spectral


def test_labels_logits_and_spectra() -> None:
    method = load_method("spectral")()
    assert method == spectral()
    weights = {term.name: term.weight for term in method.terms}
    assert weights == pytest.approx({"cross-entropy": 0.1, "logits": 0.9, "spectral": 0.2})
    assert method.change.name == "none"


def test_settings_reach_the_terms() -> None:
    taps = ("blocks.0/patch", "blocks.-1/patch")
    method = spectral(feature_weight=0.05, teacher=taps, student_block=(0, -1), temperature=2.0)
    assert method.terms[1].temperature == 2.0
    assert method.terms[2] == Spectral(weight=0.05, teacher=taps, student_block=(0, -1))


def test_without_its_term_it_is_logit_distillation() -> None:
    assert [term.name for term in spectral(feature_weight=0.0).active] == ["cross-entropy", "logits"]
