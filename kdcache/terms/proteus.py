"""Proteus (arXiv:2407.10366): class token, all tokens, and patches that the student does not see."""

from dataclasses import dataclass, replace
from typing import Literal, cast, final

import torch
from torch import Tensor, nn

from kdcache.cache.column import Column
from kdcache.losses import feature_loss
from kdcache.stream.targets import Payload
from kdcache.terms.base import Inputs, Needs, Site, TokenShape, check_weight
from kdcache.terms.pairs import Pair, TokenTerm
from kdcache.terms.transforms import TransformName

_PAIR = ["prefix", "patch"]


@final
class Masking(nn.Module):
    """What the masked patches need: a head of their own, and what the student sees in their place.

    Args:
        head: From the student's width to the teacher's.
        embedding_channels: C of the student's patch embedding.
    """

    def __init__(self, head: nn.Module, embedding_channels: int) -> None:
        super().__init__()
        self.head = head
        self.token = nn.Parameter(torch.zeros(embedding_channels))


@final
@dataclass(frozen=True, kw_only=True)
class Proteus(TokenTerm):
    """Three mean squared errors behind heads of LayerNorm and projection: class, all, masked.

    The class token, through a head of its own; the class token and all patch tokens together, the
    patches through a second head; and the patches that a second forward of the student does not
    see, through a third. A class token is the first prefix token of a side, whatever registers
    follow it. The teacher sees every image whole, so that its cached tokens serve all three.

    In the second forward a trained token stands for the embeddings of masked patches; they are
    drawn from torch's random state, in the first images of what is in memory, so that accumulation
    and more ranks draw others for the same images. Only these images run twice. The student is one
    whose patch embedding has the grid of the tokens compared (ViT, DeiT); masked_weight=0 leaves
    the second forward out, and asks nothing of the student.

    The published targets are tokens after the teacher's final norm. A cache holds them before it:
    transform=layer-norm makes of them what that norm does but for its scale and offset of each
    channel, which a head can learn and which weigh the channels in the published loss.

    Args:
        weight, resize: As in `TokenTerm`; where patches are masked, the student's cannot be resized.
        teacher: A prefix tap and a patch tap, in this order.
        student_block: One block for both, or one of each.
        transform: As in `TokenTerm`.
        class_weight, all_weight, masked_weight: Factors of the three; 1, 1 and 1 as published.
        masked_images: Fraction of the images that run a second time, above 0, up to 1; at least one.
        mask_ratio: Fraction of an image's patches that are masked, between 0 and 1; at least one.
    """

    name: Literal["proteus"] = "proteus"
    weight: float = 1.0
    teacher: tuple[str, ...] = ("blocks.-1/prefix", "blocks.-1/patch")
    transform: TransformName = "layer-norm"
    class_weight: float = 1.0
    all_weight: float = 1.0
    masked_weight: float = 1.0
    masked_images: float = 0.5
    mask_ratio: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        kinds = [need.kind for need in self.needs().teacher]
        if kinds != _PAIR:
            raise ValueError(
                f"the term proteus reads a prefix tap and a patch tap, in this order, got {', '.join(self.teacher)}; "
                "give teacher=blocks.-1/prefix+blocks.-1/patch or the like"
            )
        weights = (self.class_weight, self.all_weight, self.masked_weight)
        for each in weights:
            check_weight(each)
        if not any(weights):
            raise ValueError("class_weight, all_weight and masked_weight are all 0; leave the term out with weight=0")
        if not 0 < self.masked_images <= 1:
            raise ValueError(f"masked_images must be above 0, up to 1, got {self.masked_images}")
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"mask_ratio must be between 0 and 1, got {self.mask_ratio}")

    def needs(self) -> Needs:
        """See Term."""
        return replace(super().needs(), network=self.masked_weight > 0)

    def make_adapter(self, student: TokenShape, column: Column) -> nn.Module:
        """See TokenTerm."""
        return nn.Sequential(nn.LayerNorm(student.num_channels), nn.Linear(student.num_channels, column.shape[-1]))

    def compare(self, student: Tensor, teacher: Payload, adapter: nn.Module | None) -> Tensor:
        """See TokenTerm."""
        assert adapter is not None, "make_adapter gives one"
        return feature_loss(adapter(student), teacher.decode(), kind="mse")

    def modules(self, site: Site) -> nn.Module:
        """See Term."""
        (class_shape, patch_shape), (class_column, patch_column) = site.student, site.teacher
        # Of either side's prefix tokens one is compared, so their numbers may differ.
        class_shape = class_shape._replace(num_tokens=class_column.shape[0])
        pairs = [self._pair(class_shape, class_column, site), self._pair(patch_shape, patch_column, site)]
        made: list[nn.Module] = [*pairs]
        if site.network is not None:
            num_tokens, num_channels = site.network.embedding_shape(site.image_size)
            if num_tokens != patch_shape.num_tokens or pairs[1].student_grids is not None:
                compared = patch_column.shape[0] if pairs[1].student_grids is not None else patch_shape.num_tokens
                raise ValueError(
                    f"the student embeds {num_tokens} patches and {compared} are compared, so that masked ones have "
                    "no place among them; set masked_weight=0, or choose a ViT student (and resize=teacher)"
                )
            made.append(Masking(self.make_adapter(patch_shape, patch_column), num_channels))
        return nn.ModuleList(made)

    def __call__(self, inputs: Inputs, modules: nn.Module | None) -> Tensor:
        """See Term."""
        class_pair, patch_pair, *masking = cast("tuple[Pair, Pair, Masking]", tuple(cast("nn.ModuleList", modules)))
        assert class_pair.adapter is not None and patch_pair.adapter is not None, "make_adapter gives one"
        targets = [
            pair.targets(each).decode() for pair, each in zip((class_pair, patch_pair), inputs.teacher, strict=True)
        ]
        targets[0] = targets[0][:, :1]
        own_class = class_pair.adapter(class_pair.tokens(inputs.student[0][:, :1]))
        own = torch.cat([own_class, patch_pair.adapter(patch_pair.tokens(inputs.student[1]))], dim=1)
        of_class = feature_loss(own_class, targets[0], kind="mse")
        of_all = feature_loss(own, torch.cat(targets, dim=1), kind="mse")
        loss = self.class_weight * of_class + self.all_weight * of_all
        for each in masking:
            loss = loss + self.masked_weight * self._masked(inputs, targets[1], each)
        return loss

    def _masked(self, inputs: Inputs, targets: Tensor, masking: Masking) -> Tensor:
        assert inputs.network is not None, "needs() asks for it"
        images = inputs.images[: max(1, int(self.masked_images * len(inputs.images)))]
        num_masked = max(1, int(self.mask_ratio * targets.shape[1]))
        draws = torch.rand(len(images), targets.shape[1], device=images.device)
        hidden = draws.argsort(dim=1)[:, :num_masked]
        mask = torch.zeros_like(draws, dtype=torch.bool).scatter(1, hidden, True)
        _, tokens = inputs.network.masked_tokens(images, mask, masking.token)
        found = masking.head(tokens.take_along_dim(hidden.unsqueeze(-1), dim=1))
        return feature_loss(found, targets[: len(images)].take_along_dim(hidden.unsqueeze(-1), dim=1), kind="mse")
