from kdcache.methods import load_method
from kdcache.methods.proteus import proteus
from kdcache.terms.proteus import Proteus


def test_tokens_alone_with_the_published_weights() -> None:
    method = load_method("proteus")()
    assert method.terms == (Proteus(class_weight=1, all_weight=1, masked_weight=1, masked_images=0.5, mask_ratio=0.5),)
    assert method.change.name == "none" and not method.needs_labels
    assert [tap.kind for tap in method.terms[0].needs().student] == ["prefix", "patch"]


def test_settings_reach_the_term() -> None:
    taps = ("clip:blocks.-1/prefix", "clip:blocks.-1/patch")
    method = proteus(all_weight=0.0, masked_weight=0.0, teacher=taps, student_block=(-1,), mask_ratio=0.25)
    term = Proteus(all_weight=0.0, masked_weight=0.0, teacher=taps, student_block=(-1,), mask_ratio=0.25)
    assert method.terms == (term,) and not term.needs().network
