from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from timm.optim.lars import Lars
from torch import Tensor

from kdcache.errors import RunMismatchError, SourceError, UsageError
from kdcache.images import open_source
from kdcache.methods.none import none
from kdcache.seeds import derived_seed
from kdcache.train import train
from kdcache.train.folder import load_student
from kdcache.train.probe import (
    ProbeConfig,
    linear_probe,
    make_optimizer,
    make_probe,
    probe_accuracy,
    too_few_steps,
    train_probe,
)
from kdcache.train.probe_features import Features, student_features
from tests.train.support import tiny_run

CPU = torch.device("cpu")
# A hundred steps or less, far enough to fit.
FAST = ProbeConfig(epochs=20, batch_size=64, base_lr=200, seeds=2)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Threads that wait for each other cost more than such small products."""
    torch.set_num_threads(1)


def separable() -> tuple[Tensor, Tensor]:
    """Four classes around four corners, far from 0 and on two scales, which the BatchNorm must take away."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 4
    corners = torch.stack([labels // 2, labels % 2], dim=1).float()
    noise = 0.05 * torch.randn(400, 2, generator=generator)
    return (corners + noise) * torch.tensor([1000.0, 0.01]) + 7, labels


def test_separable_features_are_separated() -> None:
    values, labels = separable()
    probe = train_probe(values[:300], labels[:300], FAST, num_classes=4)
    assert probe_accuracy(probe, Features(values[300:], labels[300:], 0)).top1 == 100
    shuffled = labels[torch.randperm(400, generator=torch.Generator().manual_seed(1))]
    probe = train_probe(values[:300], shuffled[:300], FAST, num_classes=4)
    assert probe_accuracy(probe, Features(values[300:], shuffled[300:], 0)).top1 < 60


def test_undecodable_images_count_as_wrong() -> None:
    values, labels = separable()
    probe = train_probe(values, labels, FAST, num_classes=4)
    accuracy = probe_accuracy(probe, Features(values, labels, 100))
    assert (accuracy.top1, accuracy.num_images, accuracy.num_bad) == (80.0, 500, 100)


def test_the_norm_has_no_parameters_and_the_head_all() -> None:
    probe = make_probe(192, 10)
    assert list(probe[0].parameters()) == []
    assert isinstance(probe[0], torch.nn.BatchNorm1d)
    assert sum(each.numel() for each in probe.parameters()) == 192 * 10 + 10


def test_the_optimizer_is_timms_lars_and_adapts_the_weight_alone() -> None:
    """One step by hand: the weight moves by 0.001 of its norm times the rate, the bias by its gradient."""
    probe = make_probe(8, 3)
    optimizer = make_optimizer(probe, lr=0.2)
    assert type(optimizer) is Lars
    weight, bias = probe[1].parameters()
    before = weight.detach().clone(), bias.detach().clone()
    torch.nn.functional.cross_entropy(probe(torch.randn(16, 8)), torch.arange(16) % 3).backward()
    optimizer.step()
    assert weight.grad is not None
    assert bias.grad is not None
    expected = 0.2 * 0.001 * before[0].norm() / weight.grad.norm() * weight.grad
    torch.testing.assert_close(before[0] - weight, expected, rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(before[1] - bias, 0.2 * bias.grad)


def test_a_seed_decides_a_probe() -> None:
    values, labels = separable()
    first, same, other = (
        train_probe(values, labels, FAST, num_classes=4, seed=seed).state_dict() for seed in (0, 0, 1)
    )
    assert torch.equal(first["1.weight"], same["1.weight"])
    assert not torch.equal(first["1.weight"], other["1.weight"])


def test_too_few_steps_are_named() -> None:
    caution = too_few_steps(ProbeConfig(), 1437)
    assert caution is not None
    assert caution.startswith("100 steps of LARS at a rate of 0.2 cannot fit a probe; raise base_lr or epochs 50 times")
    assert too_few_steps(ProbeConfig(), 1_281_167) is None
    assert too_few_steps(ProbeConfig(base_lr=10), 1437) is None


@pytest.mark.parametrize("values", [{"epochs": 0}, {"seeds": 0}, {"batch_size": 1}, {"base_lr": 0}])
def test_mistakes_are_named(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        ProbeConfig(**values)
    with pytest.raises(SourceError, match="at least two"):
        train_probe(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64), FAST, num_classes=2)


def test_a_run_beside_its_untrained_self(tiny_root: Path, tmp_path: Path) -> None:
    """The probe of a run is that of its features computed directly; the control has the weights the run began with."""
    run, test = tmp_path / "run", open_source("digits:test")
    with pytest.raises(RunMismatchError, match="not the folder of a finished run"):
        linear_probe(run, test, test, FAST, device=CPU)
    train(tiny_root, run, tiny_run("data.codec=none", "optimizer.lr=1e-12", "epochs=1", method=none()))
    trained, untrained = linear_probe(run, test, test, FAST, device=CPU)
    student, _, view, _ = load_student(run)
    direct = student_features(student, test, view, "class", batch_size=50, device=CPU)
    assert direct.values.shape == (360, trained.num_channels) == (360, 12)
    for seed in range(2):
        probe = train_probe(direct.values, direct.labels, FAST, num_classes=10, seed=seed)
        assert probe_accuracy(probe, direct) == trained.accuracies[seed]
    files = sorted((run / "probe").iterdir())
    # The rate was so small that training changed the last bits only, of which the probe may make much.
    one, two = (load_file(path)["values"] for path in files)
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)
    assert untrained.num_channels == trained.num_channels
    assert len(files) == 2, "of the trained and of the untrained student; training and evaluation images are the same"
    stamps = [path.stat().st_mtime_ns for path in files]
    assert linear_probe(run, test, test, FAST, device=CPU) == (trained, untrained)
    assert [path.stat().st_mtime_ns for path in files] == stamps, "read, not computed again"
    assert derived_seed("student", 0) != derived_seed("probe", 0)
    with pytest.raises(UsageError, match="choose from last, best"):
        linear_probe(run, test, test, FAST, weights="newest", device=CPU)
