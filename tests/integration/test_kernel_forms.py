"""A training run is the same whichever form of the kernels computes its feature loss."""

from pathlib import Path

import pytest

from kdcache.methods.feature import feature
from kdcache.terms.logits import Logits
from kdcache.train import train
from tests.kernels.conftest import triton_form as triton_form  # the fixture
from tests.train.support import losses, tiny_run


@pytest.mark.parametrize("codec", ["fp16", "int8"])
def test_torch_and_triton_give_the_same_loss_curve(
    tiny_root: Path, tmp_path: Path, triton_form: str, monkeypatch: pytest.MonkeyPatch, codec: str
) -> None:
    """Five steps of a bfloat16 student; the curves differ by what rounding its gradients to 16 bits makes of them."""
    curves = {}
    for form in ("torch", "triton"):
        monkeypatch.setenv("KD_KERNELS", form)
        method = feature(teacher=("blocks.1/patch",), feature_weight=1.0)
        method = method.with_terms([Logits(teacher="head/logits:fp16")])
        run = tiny_run(f"data.codec={codec}", "precision=bf16", "optimizer.lr=1e-2", "epochs=1", method=method)
        train(tiny_root, tmp_path / form, run)
        curves[form] = losses(tmp_path / form)
    assert len(curves["torch"]) == 5
    assert curves["torch"][-1]["tokens"] < curves["torch"][0]["tokens"]
    for torch_step, triton_step in zip(curves["torch"], curves["triton"], strict=True):
        assert triton_step["tokens"] == pytest.approx(torch_step["tokens"], rel=2e-3)
        assert triton_step["loss"] == pytest.approx(torch_step["loss"], rel=2e-3)
