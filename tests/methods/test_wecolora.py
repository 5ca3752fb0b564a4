"""A compressed copy of the teacher, from unlabelled images (arXiv:2404.09326)."""

from pathlib import Path

import pytest
import timm
import torch

from kdcache.cache import Cache
from kdcache.methods.wecolora import wecolora
from kdcache.students.weight_copy import WeightCopy
from kdcache.train.folder import save_weights
from kdcache.train.setup import prepare
from tests.methods.support import value_of
from tests.train.support import tiny_run


def test_it_reads_tokens_alone() -> None:
    method = wecolora(every=3, adapters="lora", rank=4)
    assert method.change == WeightCopy(every=3, adapters="lora", rank=4)
    assert not method.needs_labels
    assert [term.name for term in method.active] == ["tokens"]
    assert [need.tap for need in method.terms[0].needs().teacher] == ["blocks.-1/prefix", "blocks.-1/patch"]


def test_the_loss_is_the_mean_over_all_tokens(tiny_cache: Cache) -> None:
    """Not over the two kinds: one prefix token counts as one of seventeen."""
    (term,) = wecolora(teacher=("blocks.1/prefix", "blocks.1/patch:fp16")).terms
    columns = ["blocks-1-prefix-fp32", "blocks-1-patch-fp16"]
    prefix, patch = torch.zeros(8, 1, 24), torch.ones(8, 16, 24)
    both = value_of(term, tiny_cache, columns, prefix, patch)
    parts = [
        value_of(wecolora(teacher=(tap,)).terms[0], tiny_cache, [column], tokens)
        for tap, column, tokens in zip(
            ("blocks.1/prefix", "blocks.1/patch:fp16"), columns, (prefix, patch), strict=True
        )
    ]
    torch.testing.assert_close(both, (parts[0] + 16 * parts[1]) / 17)


def test_the_student_is_cut_from_the_weights_it_is_given(tiny_cache: Cache, tmp_path: Path) -> None:
    kwargs = {"patch_size": 4, "embed_dim": 24, "depth": 4, "num_heads": 3}
    full = timm.create_model("vit_tiny_patch16_224", img_size=16, num_classes=0, **kwargs)
    save_weights(tmp_path / "full.safetensors", full)
    method = wecolora(rank=4, teacher=("blocks.1/patch:fp16",))
    config = tiny_run(method=method, student_kwargs=kwargs, student_weights=str(tmp_path / "full.safetensors"))
    network = prepare(config, tiny_cache).step.student.network
    assert len(network.blocks) == 2
    kept = network.blocks[1].mlp.fc1.linear.weight
    torch.testing.assert_close(kept, full.blocks[2].mlp.fc1.weight, rtol=0, atol=0)


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_its_weight_can_be_chosen(weight: float) -> None:
    assert wecolora(feature_weight=weight).terms[0].weight == weight
