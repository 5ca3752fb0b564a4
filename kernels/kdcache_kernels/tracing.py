"""Whether a call must go through an operator that torch knows, or may call the function behind it.

An operator of ``torch.library`` written in Python costs the host 100 to 150 us for each forward and backward, more than
a kernel runs; only a compiler, an exporter and tensors that stand for others need one.
"""

import torch
from torch import Tensor, nn

_PLAIN = (Tensor, nn.Parameter, type(None))


def needs_operator(*tensors: Tensor | None) -> bool:
    """Whether torch is compiling or exporting, or a tensor is of a subclass: fake, distributed, a user's own."""
    return torch.compiler.is_compiling() or any(type(each) not in _PLAIN for each in tensors)
