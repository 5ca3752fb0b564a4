"""One training run, completely: what a recipe returns and what a run folder records."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from kdcache.images.classes import ClassOrder, ClassRule
from kdcache.images.rules import KeyPrefix, SourceRules, TarKeys
from kdcache.methods.base import Method
from kdcache.per_class import check_subset
from kdcache.reading.checks import CheckPolicy
from kdcache.reading.files import Access
from kdcache.stream.order import EpochOf, Tail
from kdcache.stream.pixels import PixelOrigin
from kdcache.train.optimizer import OptimizerConfig, SchedulerConfig

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Parallel = Literal["ddp", "fsdp"]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How the cache is streamed.

    Args:
        source: Where the images are, for a cache that only refers to them.
        codec: Which column, where a term leaves it open and several hold its tap.
        per_class, per_class_seed, window, views_per_sample, epoch_of, tail, num_threads, memory_budget, access, check,
            pixels, check_pixels: As in stream.StreamConfig.
    """

    source: str | None = None
    codec: str | None = None
    per_class: str | None = None
    per_class_seed: int | None = None
    window: int = 16
    views_per_sample: int = 1
    epoch_of: EpochOf = "samples"
    tail: Tail = "drop"
    num_threads: int | None = None
    memory_budget: int | None = None
    access: Access = "auto"
    check: CheckPolicy = "full"
    pixels: PixelOrigin = "auto"
    check_pixels: float = 1 / 64

    def __post_init__(self) -> None:
        check_subset(self.per_class, self.per_class_seed)


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Accuracy on labelled images during training.

    Args:
        data: A source as in `open_source`; None for no evaluation.
        every_epochs: Evaluate after every so many epochs, and after the last.
        crop_pct: Fraction of the resized image that is seen; None takes the student's timm default.
        batch_size: Images in one forward.
        labels, label_member, image_member, tar_keys, key_prefix: How `data` is read; see SourceRules.
        class_order, class_map: Of its class folders; see ClassRule. None orders them as the student's classes are.
    """

    data: str | None = None
    every_epochs: int = 1
    crop_pct: float | None = None
    batch_size: int = 64
    labels: str | None = None
    label_member: str | None = None
    image_member: str | None = None
    tar_keys: TarKeys = "first-dot"
    key_prefix: KeyPrefix = "none"
    class_order: ClassOrder = "natural"
    class_map: str | None = None

    def __post_init__(self) -> None:
        if self.every_epochs < 1 or self.batch_size < 1:
            raise ValueError(
                f"every_epochs and batch_size must be at least 1, got {self.every_epochs}, {self.batch_size}"
            )
        _ = self.rules  # checks itself

    @property
    def rules(self) -> SourceRules:
        """How the images are read."""
        return SourceRules(
            classes=ClassRule(
                order=self.class_order, class_map=None if self.class_map is None else Path(self.class_map)
            ),
            labels=None if self.labels is None else Path(self.labels),
            label_member=self.label_member,
            image_member=self.image_member,
            tar_keys=self.tar_keys,
            key_prefix=self.key_prefix,
        )


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When the run is saved.

    Args:
        every_steps: Save after every so many optimizer steps, besides every epoch's end; None for epochs only.
        keep: Checkpoints to keep.
        milestone_every: Keep the student's weights after every so many epochs for good, beside those of the best epoch
            (which every run with evaluation images keeps); None for none.
    """

    every_steps: int | None = None
    keep: int = 2
    milestone_every: int | None = None

    def __post_init__(self) -> None:
        if self.milestone_every is not None and self.milestone_every < 1:
            raise ValueError(f"milestone_every must be at least 1 epoch, got {self.milestone_every}")
        if self.keep < 1 or (self.every_steps is not None and self.every_steps < 1):
            raise ValueError(f"keep and every_steps must be at least 1, got {self.keep}, {self.every_steps}")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A training run; a recipe is a function that returns one.

    Args:
        student: timm model name.
        student_kwargs: Further arguments of the student.
        student_weights: What the student begins with: ``hub`` for timm's weights of its name, a local file, ``random``;
            None for random ones, refused where the method makes the student from trained weights.
        method: What is done to the student, and the terms of the loss.
        epochs: Passes over the cache's images.
        batch_size: Views in a global batch, over all ranks together; None takes 64, or fewer where the images are few.
        accumulate: Pieces a rank cuts its part of the batch into, to save memory; the gradient stays that of the batch.
        seed: Of initial weights, order and dropout.
        precision: Autocast type; auto is bf16 on an accelerator and fp32 on a CPU. fp16 scales its loss.
        device: auto, cpu, cuda, cuda:1.
        cpu_threads: Of a step on a CPU; None takes torch's number. The last bits of the losses depend on it, so a run
            that is resumed keeps the number it began with.
        grad_checkpointing: Recompute block activations in the backward pass.
        compile: Run the training step through torch.compile.
        ema_decay: Of the averaged weights; None for no average.
        image_size: Side of the student's images in pixels; None for that of the views. Others are resized from them.
        num_classes: None takes the teacher's where its logits are used, else the data's.
        same_classes: Whether the labels' classes are the first of the teacher's, although they differ in number.
        teacher: The teacher the cache must hold; None accepts any.
        online: Whether the teachers run beside the student on the same views, in place of their cached outputs: slower,
            and only for comparison.
        log_every: Optimizer steps between two lines of metrics.
        parallel: Under torchrun or srun, ``ddp`` keeps all weights on every rank; ``fsdp`` (FSDP2) divides weights,
            gradients and optimizer state among the ranks. Losses and checkpoints are the same.
        rank_timeout_s: Under torchrun or srun, seconds after which a rank that does not answer ends the others.
        tensorboard: Whether to write TensorBoard events as well (needs the extra ``tensorboard``).
        optimizer, scheduler, data, eval, checkpoint: Groups.
    """

    student: str
    method: Method
    student_kwargs: dict[str, Any] = field(default_factory=dict)
    student_weights: str | None = None
    epochs: int = 1
    batch_size: int | None = None
    accumulate: int = 1
    seed: int = 0
    precision: Precision = "auto"
    device: str = "auto"
    cpu_threads: int | None = None
    grad_checkpointing: bool = False
    compile: bool = False
    ema_decay: float | None = None
    image_size: int | None = None
    num_classes: int | None = None
    same_classes: bool = False
    teacher: str | None = None
    online: bool = False
    log_every: int = 10
    parallel: Parallel = "ddp"
    rank_timeout_s: float = 300.0
    tensorboard: bool = False
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "log_every", "image_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.cpu_threads is not None and self.cpu_threads < 1:
            raise ValueError(f"cpu_threads must be at least 1, got {self.cpu_threads}")
        if not 0 < self.rank_timeout_s < math.inf:
            raise ValueError(f"rank_timeout_s must be above 0, got {self.rank_timeout_s}")
        if "num_classes" in self.student_kwargs:
            found = self.student_kwargs["num_classes"]
            raise ValueError(f"student_kwargs num_classes={found!r} would be ignored: the run decides; set num_classes")
        if self.precision not in get_args(Precision):
            raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}, got {self.precision!r}")
        if self.parallel not in get_args(Parallel):
            raise ValueError(f"parallel must be one of {', '.join(get_args(Parallel))}, got {self.parallel!r}")
        if self.compile and self.parallel == "fsdp":
            raise ValueError("compile=true does not go with parallel=fsdp; leave one of them out")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay must be between 0 and 1, got {self.ema_decay}")
