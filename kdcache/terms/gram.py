"""Gram anchoring (arXiv:2508.10104): how similar the tokens of an image are to one another."""

from dataclasses import dataclass
from typing import Literal, final

from torch import Tensor, nn

from kdcache.cache.column import Column
from kdcache.losses import gram_loss
from kdcache.stream.targets import Payload
from kdcache.terms.base import TokenShape
from kdcache.terms.pairs import TokenTerm


@final
@dataclass(frozen=True, kw_only=True)
class Gram(TokenTerm):
    """Mean squared difference between the matrices of cosines of an image's tokens.

    Student and teacher may have any two widths; nothing is trained beside the student. Tokens that end in a ReLU, as a
    ResNet's do, have no negative cosines, so that a teacher's that are negative stay out of reach.

    Args:
        weight, teacher, student_block, resize, transform: As in `TokenTerm`.
    """

    name: Literal["gram"] = "gram"

    def make_adapter(self, student: TokenShape, column: Column) -> None:
        """See TokenTerm."""
        refuse_single_token(self.name, student, column)

    def compare(self, student: Tensor, teacher: Payload, adapter: nn.Module | None) -> Tensor:
        """See TokenTerm."""
        return gram_loss(student, teacher.decode())


def refuse_single_token(name: str, student: TokenShape, column: Column) -> None:
    """Refuse a tap at which an image has one token: its cosine is 1, whatever the student does.

    Raises: ValueError.
    """
    if student.num_tokens < 2:
        raise ValueError(
            f"the term {name} compares the tokens of an image with one another, and there is one at {column.label}; "
            "choose patch tokens"
        )
