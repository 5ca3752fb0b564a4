from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from kdcache.analysis.branches import branches_text, high_frequency_gap, measure_branches
from kdcache.analysis.folder import read_analysis
from kdcache.analysis.result import BranchSpectrum
from kdcache.analysis.spectrum import RadialSpectrum
from kdcache.analysis.tokens import Pictures, TokenSource
from kdcache.cli.main import main
from kdcache.models import create_timm_model
from kdcache.models.multi_depth import MultiDepthBlock


class Runs(TokenSource):
    """A source that runs a network over batches of two maps."""

    def __init__(self, model: nn.Module, maps: torch.Tensor) -> None:
        self._model, self._maps = model, maps

    def batches(self) -> Iterator[list[torch.Tensor]]:
        for part in self._maps.split(2):
            yield [self._model(part)]

    def pictures(self, count: int) -> Pictures:
        raise NotImplementedError


def smoothing(width: int) -> MultiDepthBlock:
    """A block whose shallow branch is a mean over 3 x 3 and whose deep branch is a second difference of it."""
    block: Any = MultiDepthBlock(width)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.zero_()
        for channel in range(width):
            block.shallow.weight[channel, channel] = 1 / 9
            block.deep[0].weight[channel, channel, 1, 1] = 1
            block.deep[2].weight[channel, channel] = -1 / 8
            block.deep[2].weight[channel, channel, 1, 1] = 1
        block.deep[2].bias.fill_(0.1)
    return block


def test_a_fine_branch_is_told_from_a_smooth_one() -> None:
    model = nn.Sequential(nn.Identity(), smoothing(3))
    maps = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)) + 3
    [found] = measure_branches(model, Runs(model, maps))
    assert found.block == "1"
    assert found.frequency == [0, 0.125, 0.25, 0.375, 0.5]
    assert min(high_frequency_gap(found, relative_to=number) for number in (0, 1)) > 1
    assert "in 1 of 1 multi-depth blocks" in branches_text([found])
    with torch.no_grad():
        for branch in ("shallow", "deep"):
            spectrum = RadialSpectrum((8, 8))
            spectrum.update(model[1].get_submodule(branch)(maps).flatten(2).mT)
            np.testing.assert_allclose(getattr(found, branch), spectrum.curves()["log_amplitude"], atol=1e-6)
    assert all(not each._forward_hooks for each in model.modules()), "nothing stays on the model"


def test_single_positions_and_other_models_have_no_branches() -> None:
    model = nn.Sequential(MultiDepthBlock(3))
    assert measure_branches(model, Runs(model, torch.randn(2, 3, 1, 1))) == []
    plain = create_timm_model("resnet18")
    assert measure_branches(plain, Runs(plain, torch.empty(0))) == []


@pytest.mark.parametrize(
    ("gaps", "text"), [((1.0, 2.0), "in 2 of 2"), ((-1.0, 1.0), "in 1 of 2"), ((-2.0,), "in 0 of 1")], ids=str
)
def test_the_reading_counts_blocks(gaps: tuple[float, ...], text: str) -> None:
    branches = [
        BranchSpectrum(block="b", frequency=[0, 0.25, 0.5], shallow=[0, -1, -2], deep=[0, gap - 1, gap - 2])
        for gap in gaps
    ]
    assert [high_frequency_gap(each) for each in branches] == pytest.approx(gaps)
    assert [high_frequency_gap(each, relative_to=1) for each in branches] == pytest.approx([0] * len(gaps))
    assert f"{text} multi-depth blocks relative to the mean" in branches_text(branches)
    assert f"in 0 of {len(gaps)} relative to its slowest change (+0.00)" in branches_text(branches)
    assert f"{np.mean(gaps):+.2f} on average" in branches_text(branches)


def test_a_model_of_such_blocks_is_analysed_with_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["analyze", "--model", "multi_depth_tiny", "--weights", "random", "--data", "digits:test", "--images", "4"]
    kwargs = ["dims=[8,8]", "depths=[1,1]", "stem_stride=1"]
    assert main([*words, "--model-kwargs", *kwargs, "--image-size", "16", "--out", str(tmp_path)]) == 0
    assert "multi-depth blocks" in capsys.readouterr().out
    branches = read_analysis(tmp_path)[0].branches
    assert [each.block for each in branches] == [
        f"stages.{stage}.blocks.0.{block}" for stage in (0, 1) for block in ("first", "second")
    ]
    assert [len(each.frequency) for each in branches] == [5, 5, 3, 3]
