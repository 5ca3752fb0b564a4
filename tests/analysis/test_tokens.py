from kdcache.analysis.tokens import LayerFacts, TokenSource


def test_a_source_stores_nothing_unless_it_says_so() -> None:
    class Nothing(TokenSource):
        def batches(self):
            return iter(())

        def pictures(self, count: int):
            raise NotImplementedError

    assert Nothing().stored() is None


def test_a_layer_of_a_model_has_no_column() -> None:
    layer = LayerFacts(name="blocks.0/patch", block=0, num_tokens=4, num_channels=8, grid=[2, 2])
    assert (layer.column, layer.codec, layer.fidelity) == ("", "", {})
