"""Calls that go through an operator that torch knows where they must, else to the function behind it.

An operator of ``torch.library`` written in Python costs the host 100 to 150 us for each forward and backward, more than
a kernel runs; only a compiler, an exporter and tensors that stand for others need one.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

_PLAIN = (Tensor, nn.Parameter, type(None))
Found = TypeVar("Found")


def needs_operator(*tensors: Tensor | None) -> bool:
    """Whether torch is compiling or exporting, or a tensor is of a subclass: fake, distributed, a user's own."""
    return torch.compiler.is_compiling() or any(type(each) not in _PLAIN for each in tensors)


def gradients_by(
    operator: Callable[..., Found], function: Callable[..., Found], *tensors: Tensor | None
) -> Callable[..., Found]:
    """What a backward pass calls with these tensors: the operator or the function behind it.

    Under grad mode somebody wants to differentiate again, which only the operator refuses.
    """
    return operator if torch.is_grad_enabled() or needs_operator(*tensors) else function


def without_operator(
    forward: Callable[..., Any],
    keep: Callable[[Any, Any, Any], None],
    backward: Callable[..., Any],
    *,
    given: int = 1,
) -> type[torch.autograd.Function]:
    """An autograd function that does what an operator does; of several outputs it gives the first, or the first few.

    Torch's own way of keeping what a backward pass needs (``setup_context``) would cost 30 us a call.

    Args:
        forward: The function behind the operator.
        keep: The operator's ``setup_context``.
        backward: The operator's.
        given: How many outputs it gives; of more than one, a tuple.
    """

    class Eager(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            output = forward(*inputs)
            keep(ctx, inputs, output)
            if isinstance(output, Tensor):
                return output
            return output[0] if given == 1 else output[:given]

    Eager.backward = staticmethod(backward)
    return Eager
