"""The teacher's class distribution (arXiv:1503.02531), from dense, top-k or sampled logits."""

from dataclasses import dataclass
from typing import Literal, final

from torch import Tensor, nn

from kdcache.cache.codecs import SparseLogits
from kdcache.losses import logit_kd, top_k_logit_kd
from kdcache.terms.base import Inputs, Needs, Site, Term, check_weight, teacher_need


@final
@dataclass(frozen=True, kw_only=True)
class Logits(Term):
    """KL from the teacher's class distribution to the student's, from dense, top-k or sampled logits.

    Args:
        weight: Its factor.
        teacher: ``[GROUP:]head/logits[:CODEC]``; empty for the only logits of the cache.
        temperature: T; the term is scaled by T**2. Top-k and sampled logits are known at T = 1 only.
    """

    name: Literal["logits"] = "logits"
    weight: float = 0.9
    teacher: str = ""
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_weight(self.weight)
        if not self.temperature > 0:
            raise ValueError(f"temperature must be > 0, got {self.temperature}")
        if teacher_need(self.teacher, "logits").kind != "logits":
            raise ValueError(f"the term logits reads logits, got teacher={self.teacher}")

    def needs(self) -> Needs:
        """See Term."""
        return Needs(teacher=[teacher_need(self.teacher, "logits")], logits=True)

    def modules(self, site: Site) -> nn.Module | None:
        """See Term."""
        (column,) = site.teacher
        if self.temperature != 1 and isinstance(column.make_codec().packed, SparseLogits):
            raise ValueError(
                f"temperature {self.temperature} needs all logits, and column {column.name} keeps "
                "some, with the probability of the others at temperature 1; set temperature=1, or extract dense logits"
            )
        return None

    def __call__(self, inputs: Inputs, modules: nn.Module | None) -> Tensor:
        """See Term."""
        (targets,) = inputs.teacher
        packed, fields = targets.packed, targets.fields
        if isinstance(packed, SparseLogits):
            return top_k_logit_kd(inputs.logits, fields[packed.index], fields[packed.values], fields[packed.other])
        return logit_kd(inputs.logits, targets.decode(), temperature=self.temperature)
