"""Add a change of the student: python examples/extending/change.py CACHE RUN trains one, on the demo's cache.

Inside the repository it is a file of kdcache/students and a line in the table of its __init__.py, after which
`--change registers:number=4` works with any method.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, final

from torch import nn

import kdcache
from kdcache.methods.feature import feature
from kdcache.students import CHANGES
from kdcache.students.change import Build, Change
from kdcache.train.folder import load_student


@final
@dataclass(frozen=True, kw_only=True)
class Registers(Change):
    """Register tokens beside the class token: room for what a ViT otherwise writes into background patches.

    Args:
        number: How many.

    Source: arXiv:2309.16588.
    """

    name: Literal["registers"] = "registers"
    number: int = 4

    def apply(self, build: Build) -> nn.Module:
        """See Change: the model of the student's name, built with further arguments."""
        return build(reg_tokens=self.number)


# A saved student names its change: by this line evaluation, export and resuming find the class again.
CHANGES["registers"] = (f"{__name__}:Registers", "register tokens beside the class token")


def main(cache_folder: str, run: str, student: str, **settings: object) -> None:
    """Train with plain feature distillation, then build the student again from what was saved."""
    method = replace(feature(), change=Registers(number=2))
    config = kdcache.RunConfig(student=student, method=method, **settings)
    kdcache.train(Path(cache_folder), Path(run), config)
    saved, *_ = load_student(Path(run))
    print(f"{run}: {saved.model.num_prefix_tokens} prefix tokens")


if __name__ == "__main__":
    # A student whose tokens are those of the demo's cache: 4 x 4 of 16 pixels.
    small = {"img_size": 16, "patch_size": 4, "embed_dim": 48, "depth": 3, "num_heads": 3}
    main(*sys.argv[1:], student="vit_tiny_patch16_224", student_kwargs=small, epochs=2)
