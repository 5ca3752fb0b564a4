"""WideLast (arXiv:2511.15572): the student's last block, or its last three, at greater widths."""

from dataclasses import dataclass
from typing import Any, Literal, final, get_args

from torch import Tensor, nn

from kdcache.errors import ModelError
from kdcache.students.change import Build, WidthChange
from kdcache.students.families import Family, block_lists, family_of, width_arguments

Schedule = Literal["heads_step", "fixed_step", "heads_linear", "fixed_linear"]
# As in the released code, and in every other LayerNorm of timm's ViTs; torch's own default is 1e-5.
_EPS = 1e-6
_NUM_LINEAR_BLOCKS = 3
_CHANNEL_STEP = 8


@final
@dataclass(frozen=True, kw_only=True)
class WideLastChange(WidthChange):
    """The last block at the teacher's width, with final norm and head.

    ``init="released"`` differs in the class token alone: deviation .02, timm's is 1e-6.

    Args:
        schedule: ``heads_step`` (the paper's) widens the last block and keeps the head dimension, ``fixed_step`` keeps
            the number of heads; ``heads_linear`` and ``fixed_linear`` reach the width in three equal steps over the
            last three blocks, rounded down to what the heads divide.
    """

    name: Literal["widelast"] = "widelast"
    schedule: Schedule = "heads_step"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.schedule not in get_args(Schedule):
            raise ValueError(f"schedule must be one of {', '.join(get_args(Schedule))}, got {self.schedule!r}")

    def apply(self, build: Build) -> nn.Module:
        """See Change."""
        model = widen_last_blocks(build, width=self.known_width, schedule=self.schedule)
        if self.init == "released" and getattr(model, "cls_token", None) is not None:
            nn.init.trunc_normal_(model.cls_token, std=0.02)  # pyright: ignore[reportArgumentType]
        return model


@final
class WidenedBlock(nn.Module):
    """Projection of all tokens to a new width, LayerNorm, then one transformer block of that width.

    Args:
        block: The wide block.
        in_width: Channels coming in.
        width: Channels of the block.
    """

    def __init__(self, block: nn.Module, *, in_width: int, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(in_width, width, bias=False)
        self.norm = nn.LayerNorm(width, eps=_EPS)
        self.block = block
        nn.init.trunc_normal_(self.project.weight, std=0.02)

    def forward(self, tokens: Tensor, *args: object, **kwargs: object) -> Tensor:
        """(B, ..., in_width) to (B, ..., width); further arguments go to the block."""
        return self.block(self.norm(self.project(tokens)), *args, **kwargs)


def widen_last_blocks(build: Build, *, width: int, schedule: Schedule = "heads_step") -> nn.Module:
    """A timm transformer whose last blocks, final norm and head are wider.

    A wide block has the model's own design (MLP ratio, layer scale, windows, ...): it is taken from the same
    architecture built at that width.

    Args:
        build: Builds the student; called once as it is, then once for each width with arguments for width and heads.
        width: C_t, channels of the teacher's features.
        schedule: As in WideLastChange.

    Raises: ModelError for a student whose blocks cannot be widened alone, or a width its heads do not divide.
    Source: arXiv:2511.15572 and its released code.
    """
    model: Any = build()
    family = family_of(model, change="widelast")
    if not family.after:
        raise ModelError(
            f"widelast widens transformer blocks, those of a {family.name} are convolutions; choose a ViT, CaiT or "
            "Swin student, or the method lift"
        )
    name, blocks = list(block_lists(model, family).items())[-1]
    num_stages = len(block_lists(model, family))
    narrow = model.feature_info[-1]["num_chs"]
    steps = _steps(schedule, narrow, width, blocks[-1].attn.num_heads)  # pyright: ignore
    wide: Any = None
    for at, (block_width, num_heads) in enumerate(steps, start=len(blocks) - len(steps)):  # pyright: ignore
        wide = build(**width_arguments(family, num_stages, block_width, num_heads))
        wide_block = wide.get_submodule(name)[at]
        blocks[at] = WidenedBlock(wide_block, in_width=narrow, width=block_width)  # pyright: ignore
        narrow = block_width
    _take_head(model, wide, family, width)
    return model


def _take_head(model: Any, wide: Any, family: Family, width: int) -> None:
    for name in family.after:
        if hasattr(model, name):
            setattr(model, name, getattr(wide, name))
    model.feature_info[-1]["num_chs"] = width
    model.num_features = model.head_hidden_size = width
    if "*" not in family.blocks:
        model.embed_dim = width


def _steps(schedule: Schedule, narrow: int, width: int, num_heads: int) -> list[tuple[int, int]]:
    """Width and heads of each widened block.

    Raises: ModelError for a width that the heads do not divide.
    """
    head_dim = narrow // num_heads
    keeps_head_dim = schedule.startswith("heads")
    if width % (head_dim if keeps_head_dim else num_heads):
        kept = f"head dimension {head_dim}" if keeps_head_dim else f"{num_heads} heads"
        raise ModelError(
            f"widelast ({schedule}) keeps the student's {kept}, which does not divide the teacher's width {width}; "
            "choose another schedule, a student with other heads, or the method lift"
        )
    count = _NUM_LINEAR_BLOCKS if schedule.endswith("linear") else 1
    divisor = head_dim if keeps_head_dim else _CHANNEL_STEP * num_heads
    widths = [narrow + (width - narrow) * at // count for at in range(1, count)]
    widths = [max(narrow, each // divisor * divisor) for each in widths] + [width]
    return [(each, each // head_dim if keeps_head_dim else num_heads) for each in widths]
