from kdcache.methods.none import none


def test_labels_only() -> None:
    method = none(label_smoothing=0.2)
    assert method.labels == ["cross-entropy"]
    assert method.terms[0].label_smoothing == 0.2
    assert method.change.name == "none"
