from kdcache.methods.feature import feature
from kdcache.terms.tokens import Tokens


def test_the_settings_reach_the_term() -> None:
    method = feature(
        feature_weight=0.4, loss="cosine", adapter="pool", teacher=("a:blocks.0/patch",), student_block=(3,)
    )
    expected = Tokens(weight=0.4, loss="cosine", adapter="pool", teacher=("a:blocks.0/patch",), student_block=(3,))
    assert method.terms[-1] == expected
    assert method.change.name == "none"
    assert feature(feature_weight=0).labels == ["cross-entropy", "logits"]
