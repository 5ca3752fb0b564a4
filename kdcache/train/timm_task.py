"""The cache as a timm training task, for users of timm's own training loop."""

from collections.abc import Callable, Mapping
from typing import Any, final

import torch
from timm.utils.model import unwrap_model
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kdcache.errors import MissingExtraError
from kdcache.stream.targets import PackedTargets
from kdcache.train.step import DistillationStep

try:
    from timm.task import TrainingTask
except ImportError:
    raise MissingExtraError(
        "this timm has no timm.task; update it with pip install -U timm, or use kdcache's own training loop"
    ) from None

_ADAPTERS = "adapters"


@final
class CachedDistillationTask(TrainingTask):
    """timm's distillation tasks without their teacher: targets come with the batch.

    What is evaluated and saved as ``state_dict`` is the network that timm built, under timm's own names, so that
    timm's scripts read it; what terms train beside it is saved as the task's state.

    Args:
        step: Student and loss, for example ``kdcache.prepare(config, cache).step``.
        device, dtype, verbose: As in timm's TrainingTask.
    """

    def __init__(
        self,
        step: DistillationStep,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        verbose: bool = True,
    ) -> None:
        super().__init__(device=device, dtype=dtype, verbose=verbose)
        self.trainable_module: nn.Module = step

    def prepare_distributed(self, device_ids: list[int] | None = None, **ddp_kwargs: Any) -> "CachedDistillationTask":
        """Wrap what is trained in DDP."""
        # Without a term on the logits, the head and what lies behind the last tap get no gradient.
        ddp_kwargs.setdefault("find_unused_parameters", not self._step().reads_logits)
        self.trainable_module = DistributedDataParallel(self.trainable_module, device_ids=device_ids, **ddp_kwargs)
        return self

    def compile(self, backend: str | Callable[..., Any] = "inductor", mode: str | None = None, **kwargs: Any) -> Any:
        """Compile the step, and the network for evaluation. Returns: the latter."""
        self.eval_model = torch.compile(self._step().student.model, backend=backend, mode=mode, **kwargs)
        self.trainable_module = torch.compile(self.trainable_module, backend=backend, mode=mode, **kwargs)  # pyright: ignore
        return self.eval_model

    def get_eval_model(self, module: nn.Module | None = None, ema: bool = False) -> nn.Module | None:
        """The network alone: the terms' modules are no part of what is evaluated or exported."""
        found = super().get_eval_model(module, ema)
        inner = unwrap_model(found) if found is not None else None
        return inner.student.model if isinstance(inner, DistillationStep) else found

    def get_task_state(self, module: nn.Module | None = None, ema: bool = False) -> dict[str, Any]:
        """What the terms train beside the student."""
        held = self.get_trainable_module(ema=ema) if module is None else module
        if held is None:
            return {}
        state = unwrap_model(held).adapters.state_dict()
        return {_ADAPTERS: state} if state else {}

    def load_task_state(
        self,
        state: dict[str, Any] | None,
        strict: bool = True,
        module: nn.Module | None = None,
        ema: bool = False,
    ) -> None:
        """Resume from what `get_task_state` gave.

        Raises: RuntimeError for a state of other terms, or none where these have one (``strict=False`` lets it pass).
        """
        held = self.get_trainable_module(ema=ema) if module is None else module
        if held is None:
            raise RuntimeError("there is no such module yet: for averaged weights call setup_ema() first")
        unwrap_model(held).adapters.load_state_dict((state or {}).get(_ADAPTERS, {}), strict=strict)

    def get_clip_parameters(self, exclude_head: bool = False) -> list[nn.Parameter]:
        """Parameters whose gradients are clipped together, perhaps without the classifier's."""
        step = self._step()
        classifier = getattr(step.student.model, "get_classifier", None)
        heads = classifier() if classifier is not None and exclude_head else ()
        heads = heads if isinstance(heads, tuple) else (heads,)
        excluded = {parameter for head in heads for parameter in head.parameters()}
        return [parameter for parameter in step.parameters() if parameter not in excluded]

    def forward(
        self, input: Tensor, target: Tensor, targets: Mapping[str, PackedTargets] | None = None
    ) -> dict[str, Tensor]:
        """Loss terms of a batch.

        Args:
            input: (B, 3, S, S), normalised.
            target: (B,) class indices.
            targets: What the cache holds of these views, by name of the column: ``batch.targets``.

        Returns: ``loss``, ``output`` (logits), and the unweighted terms.
        """
        terms, logits = self.trainable_module(input, target, targets or {})
        return {**terms, "output": logits}

    def _step(self) -> DistillationStep:
        step = unwrap_model(self.trainable_module)
        assert isinstance(step, DistillationStep), "that is what the constructor takes"
        return step
