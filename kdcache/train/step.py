"""One forward of everything that is trained: student, modules of the terms, loss. What DDP and torch.compile wrap."""

from collections.abc import Mapping, Sequence
from typing import final

import torch
from torch import Tensor, nn

from kdcache.stream.targets import PackedTargets
from kdcache.students.student import Student
from kdcache.terms.base import Inputs
from kdcache.train.bind import BoundTerm


@final
class DistillationStep(nn.Module):
    """A student and the terms of its loss, from normalised images to one scalar.

    Args:
        student: The student; its taps are set.
        terms: What is summed.
        modules: What each term trains or keeps beside the student, or None.

    Attributes:
        adapters: The modules by the term's label.
    """

    def __init__(self, student: Student, terms: Sequence[BoundTerm], modules: Sequence[nn.Module | None]) -> None:
        super().__init__()
        self.student = student
        self.terms = list(terms)
        made = {bound.label: module for bound, module in zip(terms, modules, strict=True) if module is not None}
        self.adapters = nn.ModuleDict(made)
        # Lifted tokens are formed where any term needs them themselves.
        self._form_change = not all(bound.term.needs().unformed for bound in terms if self._change_taps(bound))

    def forward(
        self, images: Tensor, labels: Tensor, targets: Mapping[str, PackedTargets]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The loss of a batch.

        Args:
            images: (B, 3, S, S), normalised.
            labels: (B,) class indices.
            targets: Of the same views, by name of the column.

        Returns: scalars by name, ``loss``, to be minimised, and each term's unweighted value under its label; and the
            logits (B, K).
        Raises: ValueError for targets that are not those of the terms.
        """
        wanted = {column.name for bound in self.terms for column in bound.columns}
        # A set of them, because torch.compile finds a set and the keys of a dictionary unequal, always.
        if wanted != set(targets):
            raise ValueError(f"the terms read {sorted(wanted)}, got targets {sorted(targets)}; give exactly those")
        logits, tokens, unformed = self.student.outputs(images, form_change=self._form_change)
        total = torch.zeros((), device=logits.device)
        values: dict[str, Tensor] = {}
        for bound in self.terms:
            inputs = Inputs(
                logits=logits,
                labels=labels,
                student=[tokens[number] for number in bound.tap_numbers],
                teacher=[targets[column.name] for column in bound.columns],
                images=images,
                network=bound.network_of(self.student),
                unformed={} if unformed is None else dict.fromkeys(self._change_taps(bound), unformed),
            )
            module = self.adapters[bound.label] if bound.label in self.adapters else None  # noqa: SIM401 - has no get
            values[bound.label] = bound.term(inputs, module)
            total = total + bound.term.weight * values[bound.label]
        return {"loss": total, **values}, logits

    def _change_taps(self, bound: BoundTerm) -> list[int]:
        """Which of a term's taps are the tokens of the student's change."""
        kinds = [self.student.taps[number].kind for number in bound.tap_numbers]
        return [number for number, kind in enumerate(kinds) if kind == "change"]

    @property
    def reads_logits(self) -> bool:
        """Whether any term trains the student's head."""
        return any(bound.term.needs().logits for bound in self.terms)

    def no_weight_decay(self) -> set[str]:
        """Parameters that timm's optimizer factory must not decay."""
        return {f"student.{name}" for name in self.student.no_weight_decay()}
