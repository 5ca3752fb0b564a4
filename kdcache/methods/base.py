"""What a method is: which targets it needs, how it changes the student, which loss terms it adds.

The total is METHODS 1.5's: (1 - a) CE + a T^2 KL + w L_feature, with a = logit_weight and w = feature_weight.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from kdcache.cache.codecs import SparseLogits
from kdcache.cache.column import Column
from kdcache.losses import cross_entropy, feature_loss, logit_kd, top_k_logit_kd
from kdcache.losses.feature import FEATURE_LOSSES, FeatureLossName
from kdcache.models import StudentSpec
from kdcache.stream.targets import PackedTargets


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What every method has: a name and the labels' term.

    Args:
        name: The method's name; each method has a subclass that fixes it.
        label_smoothing: Of the cross-entropy, 0 to 1.
    """

    name: str
    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing <= 1:
            raise ValueError(f"label_smoothing must be between 0 and 1, got {self.label_smoothing}")


@dataclass(frozen=True, kw_only=True)
class LogitTerm(LossConfig):
    """The teacher's logits against the labels.

    Args:
        logit_weight: a, the logits' share, 0 to 1. At 0 no logits are needed, at 1 no labels.
        temperature: T.
    """

    logit_weight: float = 0.9
    temperature: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.logit_weight <= 1:
            raise ValueError(f"logit_weight must be between 0 and 1, got {self.logit_weight}")
        if self.temperature <= 0:
            raise ValueError(f"temperature must be > 0, got {self.temperature}")


@dataclass(frozen=True, kw_only=True)
class FeatureTerm(LogitTerm):
    """The teacher's features as well.

    Args:
        feature_weight: w; at 0 no features are needed.
        feature_loss: mse, smooth_l1, cosine or normalized_mse.
        tap: The teacher's patch tap, for example ``blocks.23/patch``; None when the cache holds only one.
    """

    feature_weight: float = 0.2
    feature_loss: FeatureLossName = "mse"
    tap: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.feature_weight < 0:
            raise ValueError(f"feature_weight must be >= 0, got {self.feature_weight}")
        if self.feature_loss not in FEATURE_LOSSES:
            raise ValueError(f"feature_loss must be one of {', '.join(FEATURE_LOSSES)}, got {self.feature_loss!r}")


@dataclass(frozen=True, kw_only=True)
class WidthTerm(FeatureTerm):
    """Features, in a student that takes over the teacher's width.

    Args:
        width: C; None for the teacher's. Another width is for controls without a feature term.
    """

    width: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width is not None and self.width < 1:
            raise ValueError(f"width must be at least 1, got {self.width}")

    def resolve(self, teacher_width: int) -> int:
        """The width to build.

        Raises: ValueError when it is unknown, or not the teacher's although there is a feature term.
        """
        if self.width is None and not teacher_width:
            raise ValueError(
                f"{self.name} takes its width from a patch column and this cache has none; set method.width"
            )
        if self.width not in (None, teacher_width) and self.feature_weight > 0:
            raise ValueError(
                f"method.width = {self.width} differs from the teacher's {teacher_width}, so there is nothing to "
                "compare; set method.feature_weight=0 for a control of another width"
            )
        return self.width or teacher_width


@dataclass(frozen=True)
class Targets:
    """What the teacher said of a batch, as far as the method asked for it."""

    logits: PackedTargets | None
    features: PackedTargets | None


class Method(ABC):
    """One way to learn from a cache.

    Args:
        config: Its loss terms; which of them there are follows from the configuration's class.

    Attributes:
        config_type: What it is configured with; `config_type.name` is the word users type.
    """

    config_type: ClassVar[type[LossConfig]]

    def __init__(self, config: LossConfig) -> None:
        self.config = config

    @property
    def logit_weight(self) -> float:
        """The share of the logit term; 0 for a method without one."""
        return self.config.logit_weight if isinstance(self.config, LogitTerm) else 0.0

    @property
    def feature_weight(self) -> float:
        """The weight of the feature term; 0 for a method without one."""
        return self.config.feature_weight if isinstance(self.config, FeatureTerm) else 0.0

    @property
    def needs_labels(self) -> bool:
        """Whether the images must be labelled."""
        return self.logit_weight < 1

    @property
    def tap(self) -> str | None:
        """The teacher's patch tap, where the user chose one."""
        return self.config.tap if isinstance(self.config, FeatureTerm) else None

    def check_logits(self, column: Column) -> None:
        """Make sure that the logit term can be computed from this column.

        Raises: ValueError for a temperature that needs more than the column keeps.
        """
        if not isinstance(self.config, LogitTerm) or self.config.temperature == 1:
            return
        if isinstance(column.make_codec().packed, SparseLogits):
            raise ValueError(
                f"temperature {self.config.temperature} needs all logits, and column {column.name} keeps the largest "
                "and the others' mass at temperature 1; set method.temperature=1, or extract dense logits"
            )

    @abstractmethod
    def change(self, student: StudentSpec, *, teacher_width: int) -> StudentSpec:
        """The student this method trains.

        Args:
            student: As the user named it.
            teacher_width: C_t of the patch column, 0 when there is none.
        """

    def adapter(self, student_width: int, teacher_width: int) -> nn.Module | None:
        """A module that is trained with the student and dropped afterwards."""
        return None

    def feature_term(self, tokens: Tensor, targets: PackedTargets, adapter: nn.Module | None) -> Tensor:
        """Loss between the student's tokens and the teacher's features, here both (B, N, C_t)."""
        assert isinstance(self.config, FeatureTerm), "a method without a feature term got features"
        return feature_loss(tokens, targets.decode(), kind=self.config.feature_loss)

    def loss(
        self, logits: Tensor, tokens: Tensor | None, labels: Tensor, targets: Targets, adapter: nn.Module | None
    ) -> dict[str, Tensor]:
        """All terms of one batch.

        Args:
            logits: (B, K) of the student.
            tokens: (B, N, C_s) of its feature tap, or None.
            labels: (B,) class indices.
            targets: What the teacher said.
            adapter: What `adapter` gave.

        Returns: scalars by name: ``loss``, to be minimised, and its unweighted terms ``ce``, ``kl``, ``feature``.
        Raises: ValueError when the targets are not the ones the terms need.
        """
        share = self.logit_weight
        if (share > 0) != (targets.logits is not None) or (self.feature_weight > 0) != (targets.features is not None):
            raise ValueError(
                f"{self.config.name} with logit_weight {share} and feature_weight {self.feature_weight} got "
                f"{'' if targets.logits is not None else 'no '}logits and "
                f"{'' if targets.features is not None else 'no '}features; give exactly the targets its terms need"
            )
        terms: dict[str, Tensor] = {}
        total = torch.zeros((), device=logits.device)
        if share < 1:
            terms["ce"] = cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)
            total = total + (1 - share) * terms["ce"]
        if targets.logits is not None:
            terms["kl"] = self._logit_term(logits, targets.logits)
            total = total + share * terms["kl"]
        if targets.features is not None and tokens is not None:
            terms["feature"] = self.feature_term(tokens, targets.features, adapter)
            total = total + self.feature_weight * terms["feature"]
        return {"loss": total, **terms}

    def _logit_term(self, logits: Tensor, targets: PackedTargets) -> Tensor:
        assert isinstance(self.config, LogitTerm), "a method without a logit term got logits"
        packed, fields = targets.packed, targets.fields
        if isinstance(packed, SparseLogits):
            return top_k_logit_kd(logits, fields[packed.index], fields[packed.values], fields[packed.other])
        return logit_kd(logits, targets.decode(), temperature=self.config.temperature)


def without_features(student: StudentSpec) -> StudentSpec:
    """The student as the user named it, with no feature tap."""
    return replace(student, change="none", width=0, block=None)
