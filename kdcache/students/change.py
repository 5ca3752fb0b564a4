"""What a student change is: frozen data that turns the model of a name into the one that is trained."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, final, get_args

from torch import Tensor, nn
from typing_extensions import Self

from kdcache.errors import ModelError
from kdcache.ops import LiftedTokens

Init = Literal["timm", "released"]
Build = Callable[..., nn.Module]


class Merged(NamedTuple):
    """A trained model without what its change needed in training only.

    Attributes:
        model: Gives the same outputs.
        kwargs: What its name must be built with, besides the student's own arguments.
        change: What is still changed about it.
    """

    model: nn.Module
    kwargs: dict[str, Any]
    change: "Change"


@dataclass(frozen=True, kw_only=True)
class Change(ABC):
    """What a method does to a student's architecture.

    Args:
        name: The word users type.
    """

    name: str

    def with_width(self, width: Callable[[], int]) -> Self:
        """The same with a width that was left open filled in.

        Args:
            width: Gives C, channels of the teacher's tokens; called only where it is needed.
        """
        return self

    @property
    def needs_weights(self) -> bool:
        """Whether it is made from the weights of a trained model."""
        return False

    @property
    def decays_embeddings(self) -> bool:
        """Whether weight decay takes position embeddings and the class token too."""
        return False

    @abstractmethod
    def apply(self, build: Build) -> nn.Module:
        """The changed model.

        Args:
            build: Builds the model of the student's name; keyword arguments replace its own. Without any it has the
                weights that the run starts from, else fresh ones.

        Raises: ModelError for an architecture or settings that do not go with it.
        """

    def without_weights(self) -> "Change":
        """What gives the same architecture, with any weights: for a student whose own are loaded into it."""
        return self

    def merge(self, model: nn.Module) -> Merged:
        """The model as it is used after training."""
        return Merged(model, {}, self)


@final
@dataclass(frozen=True, kw_only=True)
class Unchanged(Change):
    """The timm model as it is."""

    name: Literal["none"] = "none"

    def apply(self, build: Build) -> nn.Module:
        """See Change."""
        return build()


@dataclass(frozen=True, kw_only=True)
class WidthChange(Change):
    """A change that makes tokens of the teacher's width.

    Args:
        width: C; None for the teacher's.
        init: Of the new layers: ``timm`` (normal of deviation .02, zero bias) or ``released``, as the paper's code has
            it, which also decays position embeddings and the class token.
    """

    width: int | None = None
    init: Init = "timm"

    def __post_init__(self) -> None:
        if self.width is not None and self.width < 1:
            raise ValueError(f"width must be at least 1, got {self.width}")
        if self.init not in get_args(Init):
            raise ValueError(f"init must be one of {', '.join(get_args(Init))}, got {self.init!r}")

    def with_width(self, width: Callable[[], int]) -> Self:
        """See Change."""
        return self if self.width is not None else replace(self, width=width())

    @property
    def known_width(self) -> int:
        """C. Raises: ModelError while it is open."""
        if self.width is None:
            raise ModelError(f"{self.name} has no width yet; give one, such as that of the teacher's tokens")
        return self.width

    @property
    def decays_embeddings(self) -> bool:
        """See Change."""
        return self.init == "released"


class TokenHead(nn.Module, ABC):
    """A changed student whose logits come from tokens that it makes of its trunk's last patch tokens.

    Attributes:
        trunk: A timm model whose last output is read.
    """

    trunk: nn.Module

    @abstractmethod
    def finish(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and the tokens of the change (B, N, C) of the trunk's last patch tokens (B, N, C_s)."""

    @abstractmethod
    def finish_unformed(self, tokens: Tensor) -> tuple[Tensor, LiftedTokens]:
        """As `finish`, but with the tokens as a product that is not carried out: nothing of (B, N, C) is made."""


def trunk_of(model: nn.Module) -> nn.Module:
    """The timm model whose blocks are read: the trunk of a student with tokens of its own, else the model itself."""
    return model.trunk if isinstance(model, TokenHead) else model
