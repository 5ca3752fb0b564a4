"""Add a term of the loss: python examples/extending/term.py CACHE RUN trains a student with it, on the demo's cache.

Inside the repository it is a file of kdcache/terms and a line in the table of kdcache/terms/__init__.py, after which
`--term attention:weight=0.5,teacher=...` works.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

import torch.nn.functional as F
from torch import Tensor, nn

import kdcache
from kdcache.cache.column import Column
from kdcache.methods.base import Method
from kdcache.methods.logit import label_terms
from kdcache.stream.targets import Payload
from kdcache.terms import TERMS
from kdcache.terms.base import TokenShape
from kdcache.terms.pairs import TokenTerm


@final
@dataclass(frozen=True, kw_only=True)
class Attention(TokenTerm):
    """Squared distance of normalised energy maps: where an image's tokens are large, for any two widths.

    Source: arXiv:1612.03928, attention transfer.
    """

    name: Literal["attention"] = "attention"

    def make_adapter(self, student: TokenShape, column: Column) -> None:
        """See TokenTerm: nothing is trained beside the student."""

    def compare(self, student: Tensor, teacher: Payload, adapter: nn.Module | None) -> Tensor:
        """See TokenTerm: student (B, N, C_s), teacher (B, N, C_t) as stored."""
        own, wanted = (F.normalize(each.float().square().mean(-1), dim=1) for each in (student, teacher.decode()))
        return (own - wanted).square().sum(1).mean()


# A run's configuration names its terms: by this line a run is read back, resumed and reported.
TERMS["attention"] = (f"{__name__}:Attention", "where an image's tokens are large, for any two widths")


def main(cache_folder: str, run: str, student: str, **settings: object) -> None:
    """Train with labels, logits and the new term."""
    method = Method(name="attention-transfer", terms=(*label_terms(0.9, 1.0, 0.1), Attention(weight=10.0)))
    config = kdcache.RunConfig(student=student, method=method, log_every=1, **settings)
    summary = kdcache.train(Path(cache_folder), Path(run), config)
    print(f"{run}: {summary['steps']} steps, loss by term", {each["label"]: each["loss"] for each in summary["terms"]})


if __name__ == "__main__":
    # A student whose tokens are those of the demo's cache: 4 x 4 of 16 pixels.
    small = {"img_size": 16, "patch_size": 4, "embed_dim": 48, "depth": 3, "num_heads": 3}
    main(*sys.argv[1:], student="vit_tiny_patch16_224", student_kwargs=small, epochs=2)
