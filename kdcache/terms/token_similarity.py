"""Token similarity (LightlyTrain's distillationv3): which tokens of its image a token resembles."""

from dataclasses import dataclass
from typing import Literal, final

from torch import Tensor, nn

from kdcache.cache.column import Column
from kdcache.losses import token_similarity_kd
from kdcache.stream.targets import Payload
from kdcache.terms.base import TokenShape
from kdcache.terms.gram import refuse_single_token
from kdcache.terms.pairs import TokenTerm


@final
@dataclass(frozen=True, kw_only=True)
class TokenSimilarity(TokenTerm):
    """KL from the teacher's to the student's softmax of a token's cosines with its image's tokens.

    Student and teacher may have any two widths; nothing is trained beside the student, where the
    published method projects its tokens first. This is that method's local part: its global part, a
    KL over similarities with a queue of teacher features from earlier batches, is left out.

    Args:
        weight, teacher, student_block, resize, transform: As in `TokenTerm`.
        temperature: Divides the cosines; no unit.
    """

    name: Literal["token-similarity"] = "token-similarity"
    temperature: float = 0.07

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature <= 0:
            raise ValueError(f"temperature must be > 0, got {self.temperature}")

    def make_adapter(self, student: TokenShape, column: Column) -> None:
        """See TokenTerm."""
        refuse_single_token(self.name, student, column)

    def compare(self, student: Tensor, teacher: Payload, adapter: nn.Module | None) -> Tensor:
        """See TokenTerm."""
        return token_similarity_kd(student, teacher.decode(), temperature=self.temperature)
