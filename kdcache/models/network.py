"""A student whose parts are run a second time: block by block, or with some patches masked."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, final

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kdcache.errors import ModelError
from kdcache.models.taps import Tap, TapReader, num_prefix_tokens

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _eager(function: _Function) -> _Function:
    """Keep torch.compile out of a function whose hooks come and go with each call."""
    return torch.compiler.disable(function)  # pyright: ignore[reportReturnType]


@final
class Network:
    """What a term may run of the student, besides the one forward that all terms share.

    Args:
        model: The timm model whose blocks the taps read.
        tokens: From normalised images to the tokens (B, N, C) at the term's taps of the student.
    """

    def __init__(self, model: nn.Module, tokens: Callable[[Tensor], Sequence[Tensor]]) -> None:
        self._model, self._tokens = model, tokens

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The blocks, each from tokens (B, N, C) to tokens of the same shape, prefix first.

        Raises: ModelError for a model without `blocks`.
        """
        blocks: Any = getattr(self._model, "blocks", None)
        if not isinstance(blocks, nn.Sequential | nn.ModuleList) or not len(blocks):
            raise ModelError(
                f"{type(self._model).__name__} has no row of blocks that run one by one (ViT, DeiT and CaiT have); "
                "choose such a student, or leave the term out"
            )
        return list(blocks)

    @property
    def num_prefix_tokens(self) -> int:
        """Class, distillation and register tokens among the tokens of a block; 0 for CaiT."""
        return num_prefix_tokens(self._model)

    def check_blocks(self, image_size: int) -> list[tuple[int, int]]:
        """Make sure that the blocks alone, one after another, make the model's last tokens.

        Args:
            image_size: S of the student's images.

        Returns: tokens and channels of what the first block is fed and of every block's output.
        Raises: ModelError for a model without such blocks, as one whose blocks take rotary position
            embeddings; TapError for one that drops patches in training.
        """
        count, device = len(self.blocks), next(self._model.parameters()).device
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(1, 3, image_size, image_size, generator=generator).to(device)
        reader = TapReader(self._model, [Tap("patch", -1)])
        was_training = self._model.training
        self._model.eval()
        with torch.inference_mode():
            outputs = [self.embed(images)]
            for number in range(count):
                outputs.append(self.run_block(number, outputs[-1]))
            (expected,) = reader(self._model, images).values()
        self._model.train(was_training)
        # The same operations on the same values: anything but equality to the bit is another computation.
        if not torch.equal(outputs[-1][:, self.num_prefix_tokens :], expected):
            raise ModelError(
                f"the blocks of {type(self._model).__name__} give other tokens one by one than in its "
                "forward, so that they cannot be trained one by one; choose a ViT, DeiT or CaiT "
                "student, or leave the term out"
            )
        return [(tokens.shape[1], tokens.shape[2]) for tokens in outputs]

    @_eager
    def embed(self, images: Tensor) -> Tensor:
        """What the first block is fed, (B, N, C), detached: no gradient reaches the embeddings through it.

        Args:
            images: (B, 3, S, S), normalised.
        """
        fed: list[Tensor] = []
        # A hook rather than patch_embed and its kin by hand, which every family combines in its own way. It costs one
        # block. With gradient, although it is thrown away: autocast keeps the halved weights of this block for its
        # next run, and keeps them without gradient where there is none.
        hook = self.blocks[0].register_forward_pre_hook(lambda module, arguments: fed.append(arguments[0].detach()))
        try:
            self._model.forward_intermediates(  # pyright: ignore[reportCallIssue]
                images, indices=[0], intermediates_only=True, stop_early=True
            )
        finally:
            hook.remove()
        return fed[0]

    def run_block(self, number: int, tokens: Tensor) -> Tensor:
        """One block's output (B, N, C) for tokens (B, N, C)."""
        block = self.blocks[number]
        if getattr(self._model, "grad_checkpointing", False) and torch.is_grad_enabled():
            # Reentrant checkpointing gives no gradient at all for an input that has none.
            return checkpoint(block, tokens, use_reentrant=False)
        return block(tokens)

    def embedding_shape(self, image_size: int) -> tuple[int, int]:
        """Tokens and channels of the patch embedding, which `masked_tokens` masks.

        Args:
            image_size: S of the student's images.

        Raises: ModelError for a model without such an embedding.
        """
        shapes: list[torch.Size] = []
        hook = self._patch_embed.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
        was_training, device = self._model.training, next(self._model.parameters()).device
        try:
            with torch.inference_mode():
                self._model.eval()(torch.zeros(1, 3, image_size, image_size, device=device))
        finally:
            hook.remove()
            self._model.train(was_training)
        return shapes[0][1:-1].numel(), shapes[0][-1]

    @_eager
    def masked_tokens(self, images: Tensor, mask: Tensor, mask_token: Tensor) -> Sequence[Tensor]:
        """Tokens at the term's taps of images of which the student does not see some patches.

        Args:
            images: (B, 3, S, S), normalised.
            mask: (B, N) bool, true for the patches that are masked; N as in `embedding_shape`.
            mask_token: (C,), in place of a masked patch's embedding, before position embeddings are added.
        """

        def replace(module: nn.Module, inputs: Any, embedded: Tensor) -> Tensor:
            where = mask.reshape(*embedded.shape[:-1], 1)
            return torch.where(where, mask_token.to(embedded.dtype), embedded)

        hook = self._patch_embed.register_forward_hook(replace)
        try:
            return self._tokens(images)
        finally:
            hook.remove()

    @property
    def _patch_embed(self) -> nn.Module:
        embed = getattr(self._model, "patch_embed", None)
        if not isinstance(embed, nn.Module):
            raise ModelError(
                f"{type(self._model).__name__} has no patch embedding whose patches could be masked; "
                "choose a ViT, DeiT or CaiT student, or leave the masked patches out"
            )
        return embed
