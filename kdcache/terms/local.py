"""Lillama (arXiv:2412.16719): every block of the student against the teacher's block of that number, on its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, final, get_args

import torch
from torch import Tensor, nn

from kdcache.cache.column import Column
from kdcache.errors import Remedy, TapError
from kdcache.losses import feature_loss
from kdcache.models.network import Network
from kdcache.models.taps import Tap, parse_tap
from kdcache.stream.targets import PackedTargets
from kdcache.terms.base import Inputs, Needs, Site, TeacherNeed, Term, check_weight, teacher_need

Mode = Literal["teacher", "student", "both"]


@final
@dataclass(frozen=True, kw_only=True)
class Local(Term):
    """Distance between the outputs of a student's block and the teacher's, mean over the blocks.

    A block is fed twice. On the teacher path its input is the teacher's own, the cached output of
    the block before; on the student path it is what the student's block before makes of the images.
    Inputs are detached, so that no gradient crosses from block to block and none reaches the
    embeddings. Both distances (`feature_loss`, l1_cosine) are summed. For a student of the
    teacher's depth, width and tokens, as a low-rank copy of it.

    Tokens are the prefix and the patch tokens that the cache holds of a block, together. No tap
    gives what block 0 is fed: on both paths that is the student's own embedding of the images,
    which is the teacher's for a copy whose embeddings are the teacher's. Its blocks are the
    student's `blocks`, one by one, so that it costs the student two more forward passes (one in
    the modes teacher and student). Quantised columns give inputs of their precision.

    The published code makes an optimizer step for each block; here each block's gradient is
    divided by the number of blocks, which Adam does not notice.

    Args:
        weight: Its factor.
        teacher: ``[GROUP:][:CODEC]``; empty for the only group and codec.
        blocks: Which blocks, counted from 0; empty for all of the student's.
        mode: Which path: teacher, student or both.
    """

    name: Literal["local"] = "local"
    weight: float = 1.0
    teacher: str = ""
    blocks: tuple[int, ...] = ()
    mode: Mode = "both"

    def __post_init__(self) -> None:
        check_weight(self.weight)
        if self.mode not in get_args(Mode):
            raise ValueError(f"mode must be one of {', '.join(get_args(Mode))}, got {self.mode!r}")
        if any(block < 0 for block in self.blocks) or len(set(self.blocks)) != len(self.blocks):
            raise ValueError(f"blocks are counted from 0, each once, got {self.blocks}")
        if teacher_need(self.teacher, "patch").tap is not None:
            raise ValueError(
                f"the term local reads whole blocks, got teacher={self.teacher}; name a group (GROUP:) or codec "
                "(:CODEC) alone, and the blocks by blocks="
            )

    def needs(self) -> Needs:
        """See Term."""
        named = teacher_need(self.teacher, "patch")
        read = self._read(self.blocks)
        kinds = ("patch", "prefix")
        return Needs(
            teacher=[TeacherNeed(kind, None, named.group, named.codec, blocks=read) for kind in kinds], network=True
        )

    def modules(self, site: Site) -> None:
        """See Term. Raises: ModelError for a student whose blocks do not run one by one."""
        network = site.network
        assert network is not None, "needs() asks for it"
        shapes = network.check_blocks(site.image_size)
        chosen = self._chosen(network)
        if chosen[-1] >= len(network.blocks):
            raise ValueError(
                f"the student has the blocks 0 to {len(network.blocks) - 1}, got blocks={self.blocks}; leave out those "
                "it does not have"
            )
        kinds = ("prefix", "patch") if network.num_prefix_tokens else ("patch",)
        held = {parse_tap(column.tap): column for column in site.teacher}
        wanted = [Tap(kind, block) for block in self._read(chosen) for kind in kinds]
        missing = [str(tap) for tap in wanted if tap not in held]
        if missing:
            raise TapError(
                f"the term local needs all tokens of the teacher's blocks {_text(self._read(chosen))}; the cache lacks "
                f"{', '.join(missing)}",
                remedy=Remedy.ADD_COLUMNS,
                wanted=missing,
                held=[column.label for column in site.teacher],
            )
        for block in self._read(chosen):
            own, other = shapes[block + 1], _shape([held[Tap(kind, block)] for kind in kinds])
            if own != other:
                raise ValueError(
                    f"block {block} of the student makes {own[0]} tokens of {own[1]} channels, the teacher's "
                    f"{other[0]} of {other[1]}, and the term local feeds the student's blocks the teacher's tokens; "
                    "choose a student of the teacher's width and patch size, such as a low-rank copy of it"
                )

    def __call__(self, inputs: Inputs, modules: nn.Module | None) -> Tensor:
        """See Term."""
        network = inputs.network
        assert network is not None, "needs() asks for it"
        held = {parse_tap(targets.column.tap): targets for targets in inputs.teacher}
        chosen = self._chosen(network)
        embedded = own = network.embed(inputs.images)
        losses: list[Tensor] = []
        for block in range(chosen[-1] + 1):
            targets = _tokens(held, network, block).to(embedded.dtype) if block in chosen else None
            if self.mode != "teacher":
                outputs = network.run_block(block, own)
                own = outputs.detach()
                if targets is not None:
                    losses.append(feature_loss(outputs, targets, kind="l1_cosine"))
            if self.mode != "student" and targets is not None:
                fed = _tokens(held, network, block - 1).to(embedded.dtype) if block else embedded
                losses.append(feature_loss(network.run_block(block, fed), targets, kind="l1_cosine"))
        return torch.stack(losses).sum() / len(chosen)

    def _chosen(self, network: Network) -> Sequence[int]:
        return sorted(self.blocks) or range(len(network.blocks))

    def _read(self, blocks: Sequence[int]) -> tuple[int, ...]:
        """The blocks whose outputs are read for these."""
        before = () if self.mode == "student" else (block - 1 for block in blocks if block)
        return tuple(sorted({*blocks, *before}))


def _tokens(held: Mapping[Tap, PackedTargets], network: Network, block: int) -> Tensor:
    """The teacher's tokens (B, N, C) after a block, prefix first, without gradient."""
    patch = held[Tap("patch", block)].decode()
    if not network.num_prefix_tokens:
        return patch
    return torch.cat([held[Tap("prefix", block)].decode(), patch], dim=1)


def _shape(columns: Sequence[Column]) -> tuple[int, int]:
    return sum(column.shape[0] for column in columns), columns[-1].shape[1]


def _text(blocks: Sequence[int]) -> str:
    return ", ".join(map(str, blocks))
