"""Linear probe of a frozen student: BatchNorm without affine and one linear layer, trained by LARS on kept features.

Source: arXiv:2404.09326 (WeCoLoRA), which takes the protocol of arXiv:2111.06377 (MAE). Features are of the evaluation
view, without augmentation, so that the student runs once over the images.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import timm
import torch
import torch.nn.functional as F
from timm.optim.lars import Lars
from torch import Tensor, nn

import kdcache
from kdcache.config import as_plain
from kdcache.durable import sha256_file
from kdcache.errors import SourceError
from kdcache.images import Source
from kdcache.seeds import derived_seed
from kdcache.students.student import Student, StudentSpec, rebuild_student
from kdcache.train.evaluate import Accuracy, check_classes, check_labels, count_hits
from kdcache.train.folder import load_student
from kdcache.train.kept_weights import weights_name
from kdcache.train.optimizer import LearningRate, SchedulerConfig
from kdcache.train.probe_features import Features, Token, images_digest, kept_features, student_features
from kdcache.train.record import read_config
from kdcache.views import EvalView

_NORM_EPS = 1e-6
_INIT_STD = 0.01
_MOMENTUM = 0.9
_LR_BASE_BATCH = 256
# Peak rate times steps: below it LARS has not moved the weights far enough to fit.
_MIN_RATE_STEPS = 1000
_COSINE = SchedulerConfig(name="cosine", warmup_epochs=0, min_lr_ratio=0)


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """A linear probe.

    Args:
        token: ``class`` or ``mean``; what is read of the student.
        epochs: Passes over the features.
        batch_size: Images in a batch; all of them where there are fewer.
        base_lr: Learning rate for a batch of 256; scaled with the batch, falling as a cosine to 0.
        seeds: How many probes are trained, which differ in initial weights and order.
    """

    token: Token = "class"
    epochs: int = 50
    batch_size: int = 512
    base_lr: float = 0.1
    seeds: int = 3

    def __post_init__(self) -> None:
        for name in ("epochs", "seeds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.batch_size < 2:
            raise ValueError(f"batch_size must be at least 2, for BatchNorm, got {self.batch_size}")
        if self.base_lr <= 0:
            raise ValueError(f"base_lr must be > 0, got {self.base_lr}")


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """Accuracies of the probes of one student on the evaluation images.

    Args:
        student: ``trained`` (the run's), or ``untrained`` (the control).
        num_channels: C of its features.
        num_images: Images the probes were trained on.
        accuracies: On the evaluation images, one for each seed.
    """

    student: Literal["trained", "untrained"]
    num_channels: int
    num_images: int
    accuracies: Sequence[Accuracy]

    def top1(self) -> tuple[float, float]:
        """Mean and sample standard deviation over seeds, in percent; the latter is 0 for one seed."""
        values = [each.top1 for each in self.accuracies]
        return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def too_few_steps(config: ProbeConfig, num_images: int) -> str | None:
    """Word a caution where LARS cannot have moved far from the initial weights; None where it could.

    A step of LARS moves a weight by 0.001 of its norm times the rate (ten times that with momentum), whatever the loss.
    The digits' pixels reach 92 % at rate x steps = 1,000 and 12 % at 20, the published 50 epochs of a batch of 512.

    Args:
        config: The probe.
        num_images: Images it is trained on.
    """
    size = min(config.batch_size, max(num_images, 1))
    steps = config.epochs * (num_images // size)
    rate = config.base_lr * size / _LR_BASE_BATCH
    if rate * steps >= _MIN_RATE_STEPS:
        return None
    factor = math.ceil(_MIN_RATE_STEPS / (rate * steps))
    return (
        f"{steps} steps of LARS at a rate of {rate:g} cannot fit a probe; raise base_lr or epochs "
        f"{factor} times or more (ImageNet makes 125,000 steps)"
    )


def make_probe(num_channels: int, num_classes: int) -> nn.Sequential:
    """An untrained probe: (B, C) features to (B, K) logits; its weights come from torch's random state."""
    head = nn.Linear(num_channels, num_classes)
    nn.init.trunc_normal_(head.weight, std=_INIT_STD)
    nn.init.zeros_(head.bias)
    # No momentum: the features do not change, so the mean over all batches is what a moving one estimates, and a short
    # probe keeps nothing of the initial variance 1 (a moving one keeps 2e-4 of it after 80 steps).
    norm = nn.BatchNorm1d(num_channels, affine=False, eps=_NORM_EPS, momentum=None)
    return nn.Sequential(norm, head)


def make_optimizer(probe: nn.Sequential, lr: float) -> Lars:
    """LARS without decay; the rate of the weight is adapted to its norm, that of the bias is not."""
    weight, bias = probe[1].parameters()
    # timm adapts a group without decay only when told to.
    groups = [{"params": [weight], "always_adapt": True}, {"params": [bias], "always_adapt": False}]
    return Lars(groups, lr=lr, momentum=_MOMENTUM, weight_decay=0)  # pyright: ignore[reportArgumentType]


def train_probe(
    values: Tensor, labels: Tensor, config: ProbeConfig, *, num_classes: int, seed: int = 0
) -> nn.Sequential:
    """Train a probe on features.

    Args:
        values: (n, C) fp32, n > 1.
        labels: (n,) int64 on the same device.
        config: How.
        num_classes: K.
        seed: Of initial weights and order.

    Returns: the probe, in evaluation mode.
    Raises: SourceError for fewer than two images.
    """
    if len(values) < 2:
        raise SourceError(f"a probe needs at least two decodable images to train on, got {len(values)}")
    size = min(config.batch_size, len(values))
    steps_per_epoch = len(values) // size
    torch.manual_seed(derived_seed("probe", seed))
    probe = make_probe(values.shape[1], num_classes).to(values.device).train()
    optimizer = make_optimizer(probe, config.base_lr * size / _LR_BASE_BATCH)
    rate = LearningRate(optimizer, _COSINE, epochs=config.epochs, steps_per_epoch=steps_per_epoch)
    for epoch in range(config.epochs):
        generator = torch.Generator().manual_seed(derived_seed("probe order", seed, epoch))
        order = torch.randperm(len(values), generator=generator).to(values.device)
        for step in range(steps_per_epoch):
            rows = order[step * size : (step + 1) * size]
            rate.set(epoch * steps_per_epoch + step)
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(probe(values[rows]), labels[rows]).backward()
            optimizer.step()
    return probe.eval()


def probe_accuracy(probe: nn.Module, features: Features) -> Accuracy:
    """Top-1 and top-5 of a probe on the device of the features; undecodable images count as wrong."""
    with torch.inference_mode():
        top1, top5 = count_hits(probe(features.values), features.labels).tolist()
    total = len(features.labels) + features.num_bad
    return Accuracy(100 * top1 / total, 100 * top5 / total, total, features.num_bad)


def linear_probe(
    run: Path,
    training: Source,
    evaluation: Source,
    config: ProbeConfig,
    *,
    weights: str = "last",
    batch_size: int = 64,
    device: torch.device,
) -> tuple[ProbeResult, ProbeResult]:
    """Probe the student of a run, and the same student before its training as the control.

    The control is what architecture, resolution and evaluation view give without any training: the student with random
    weights from this run's seed, which are those it began with unless it was made from trained ones.

    Args:
        run: Its folder; features are kept in its folder ``probe``.
        training, evaluation: Labelled images of the same classes, which need not be those of the run.
        config: The probe.
        weights: As for `weights_name`.
        batch_size: Images in one forward of the student.
        device: Where students and probes run.

    Returns: the results of the trained and of the untrained student.
    Raises: RunMismatchError, SourceError for images without labels or of other classes, UsageError for a token that
        the student does not have.
    """
    check_classes(evaluation, list(training.class_names))
    num_classes = training.num_classes
    for source in (training, evaluation):
        check_labels(source, num_classes)
    name = weights_name(run, weights)
    student, spec, view, _ = load_student(run, weights=name)
    seed = int(read_config(run)["seed"])
    facts = _facts(spec, view, config.token)
    digests = [images_digest(source) for source in (training, evaluation)]

    def probed(kind: Literal["trained", "untrained"], origin: str, student: Student) -> ProbeResult:
        student = student.to(device).eval()
        first, second = (
            kept_features(
                run,
                {**facts, "weights": origin, "images": digest},
                partial(student_features, student, source, view, config.token, batch_size=batch_size, device=device),
            ).to(device)
            for source, digest in zip((training, evaluation), digests, strict=True)
        )
        probes = [
            train_probe(first.values, first.labels, config, num_classes=num_classes, seed=number)
            for number in range(config.seeds)
        ]
        accuracies = [probe_accuracy(probe, second) for probe in probes]
        return ProbeResult(
            student=kind, num_channels=first.values.shape[1], num_images=len(first.labels), accuracies=accuracies
        )

    trained = probed("trained", sha256_file(run / name), student)
    torch.manual_seed(derived_seed("student", seed))
    return trained, probed("untrained", f"seed {seed}", rebuild_student(spec))


def _facts(spec: StudentSpec, view: EvalView, token: Token) -> dict[str, Any]:
    """What decides the features of an image, besides the weights; kdcache's version represents its code."""
    versions = {"kdcache": kdcache.__version__, "timm": timm.__version__, "torch": str(torch.__version__)}
    return {"student": as_plain(spec), "view": asdict(view), "token": token, "versions": versions}
