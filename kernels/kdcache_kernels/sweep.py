"""Feature losses with all their gradients from one sweep over the tokens, in plain torch.

A chunk of tokens is projected and compared, and gives its part of the loss and of all three
gradients at once. So the products are the three that eager training has, nothing of size (N, Dt)
is kept for the backward pass, and that pass only multiplies by the upstream gradient.
Liger-Kernel's fused losses work so: arXiv:2410.10989, section 3.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kdcache_kernels.cosine import factors_from_products
from kdcache_kernels.products import gives_float32, multiplies_bfloat16, token_product, transposed_product
from kdcache_kernels.projection_problem import Problem

# Values of the residual from which on their roundings to 16 bits average out of the loss, to some 1e-5 of it.
_ENOUGH_TO_ROUND = 2**18


@dataclass(frozen=True)
class Swept:
    """A mean loss, and its gradients but for their common factor, see `gradient_factor`.

    All are float32 (float64 for float64 students). The factor comes with the upstream gradient,
    because only with both can 16 bits hold the student's gradient.

    Args:
        loss: scalar.
        weight: (Dt, Ds), or None where it was not asked for.
        bias: (Dt,), or None likewise.
        student: (N, Ds), or None likewise.
    """

    loss: Tensor
    weight: Tensor | None
    bias: Tensor | None
    student: Tensor | None


def gradient_factor(kind: str, beta: float, teacher_width: int) -> float:
    """What `Problem.per_token` needs to give the factor of the gradients."""
    return {"mse": 2.0, "smooth_l1": 1 / beta, "cosine": 1.0}[kind] / teacher_width


def sweep(problem: Problem, kind: str, beta: float, *, for_student: bool, for_parameters: bool) -> Swept:
    """Loss and gradients where targets are stored in full.

    Args:
        problem: Without a basis.
        kind: ``mse``, ``smooth_l1`` or ``cosine``.
        beta: Where smooth L1 turns from quadratic to linear.
        for_student, for_parameters: Which gradients to form; with neither, only the loss.
    """
    chunks = _Chunks(problem, kind, beta)
    needs_slopes = for_student or for_parameters
    total, grad_weight, grad_bias = None, None, None
    for part in problem.parts():
        tokens = chunks.tokens(part)
        loss, slopes = chunks.compare(part, tokens, needs_slopes)
        total = _added(total, loss)
        if slopes is None:
            continue
        if for_parameters:
            grad_bias = _added(grad_bias, slopes.sum(0))
        slopes = slopes.to(tokens.dtype)
        if for_parameters:
            grad_weight = _added(grad_weight, chunks.weight_gradient(slopes, tokens))
        if for_student:
            chunks.put_student_gradient(part, slopes)
    assert total is not None
    constant = 1.0 if kind == "cosine" else 1 / problem.weight.shape[0]
    loss = problem.per_token(total, constant)
    return Swept(loss, grad_weight, grad_bias, chunks.student_gradient)


def _squared_lengths(rows: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows, dim=1).square_()


def _added(total: Tensor | None, part: Tensor) -> Tensor:
    return part if total is None else total.add_(part)


class _Chunks:
    """What the chunks of one sweep share: operands in the type of the products, and memory.

    On a CPU what a chunk makes is written over what the chunk before made, a few megabytes that
    stay in its cache; a GPU's allocator does as well.
    """

    def __init__(self, problem: Problem, kind: str, beta: float) -> None:
        self.problem, self.kind, self.beta = problem, kind, beta
        self.flat = problem.student.reshape(-1, problem.student.shape[-1])
        # Whether the device multiplies 16-bit operands with float32 sums, or gives sums rounded to 16 bits.
        self.is_narrow = gives_float32(self.flat)
        self.is_rounded = problem.values.numel() >= _ENOUGH_TO_ROUND and multiplies_bfloat16(self.flat)
        self.bias = problem.bias.to(problem.accumulator)
        weight = problem.rounded_weight
        self.weight = weight if self.is_narrow or self.is_rounded else weight.to(problem.accumulator)
        self.student_gradient: Tensor | None = None
        self._memory: dict[str, Tensor] = {}

    def tokens(self, part: slice) -> Tensor:
        """The student's tokens of a chunk as the products take them."""
        return self.flat[part].to(self.weight.dtype)

    def compare(self, part: slice, tokens: Tensor, needs_slopes: bool) -> tuple[Tensor, Tensor | None]:
        """Sum of the loss over a chunk, and the slopes (n, Dt) but for the common factor."""
        mask = self.problem.weights_of(part)
        if self.kind == "cosine":
            return self._cosine(part, self._projected(part, tokens), mask, needs_slopes)
        if self.bias.is_cuda:
            return self._compare_by_loss(part, tokens, mask, needs_slopes)
        residual = self._rounded_residual(part, tokens) if self.is_rounded else self._residual(part, tokens)
        return self._compare_residual(part, residual, mask, needs_slopes)

    def weight_gradient(self, slopes: Tensor, tokens: Tensor) -> Tensor:
        """slopes^T @ tokens of a chunk, (Dt, Ds), as it is added up: float32 or float64."""
        if self.is_rounded:
            return (slopes.t() @ tokens).float()
        return transposed_product(slopes, tokens)

    def put_student_gradient(self, part: slice, slopes: Tensor) -> None:
        """Write slopes @ W where the gradient of the tokens belongs."""
        is_whole = len(slopes) == self.problem.num_tokens
        if is_whole and self.is_narrow:
            self.student_gradient = token_product(slopes, (self.weight,))
            return
        if self.student_gradient is None:
            self.student_gradient = self.bias.new_empty(self.flat.shape)
        if self.is_narrow:
            self.student_gradient[part] = token_product(slopes, (self.weight,))
        elif self.is_rounded:
            self.student_gradient[part] = slopes @ self.weight
        else:
            torch.mm(slopes, self.weight, out=self.student_gradient[part])

    def _projected(self, part: slice, tokens: Tensor) -> Tensor:
        if self.is_narrow:
            return token_product(tokens, (self.weight.t(),)).add_(self.bias)
        space, dtype = self._space("projected", part), self.bias.dtype
        return torch.addmm(self.bias, tokens.to(dtype), self.weight.to(dtype).t(), out=space)

    def _compare_by_loss(
        self, part: slice, tokens: Tensor, mask: Tensor | None, needs_slopes: bool
    ) -> tuple[Tensor, Tensor | None]:
        """By torch's losses, whose few launches are what counts on a GPU."""
        projected, targets = self._projected(part, tokens), self.problem.decoded(part)
        reduction = "sum" if mask is None else "none"
        if self.kind == "mse":
            loss = F.mse_loss(projected, targets, reduction=reduction)
        else:
            loss = F.smooth_l1_loss(projected, targets, beta=self.beta, reduction=reduction)
        loss = loss if mask is None else torch.dot(loss.sum(1), mask)
        if not needs_slopes:
            return loss, None
        slopes = projected.sub_(targets)
        if self.kind == "smooth_l1":
            slopes = slopes.clamp_(-self.beta, self.beta)
        return loss, slopes if mask is None else slopes.mul_(mask[:, None])

    def _residual(self, part: slice, tokens: Tensor) -> Tensor:
        """Projected minus targets: the product is added to bias - targets, so that no sum of the two is read again."""
        space = self._space("targets", part)
        assert space is not None
        return torch.sub(self.bias, self.problem.decoded(part, space), out=space).addmm_(tokens, self.weight.t())

    def _rounded_residual(self, part: slice, tokens: Tensor) -> Tensor:
        """Projected minus targets, by a product whose result is rounded to bfloat16.

        What bfloat16 holds of bias - targets goes into the product's sums, which are rounded when only the residual is
        left; the rest is added to it. A projection that is rounded itself would lose a fitted student's loss.
        """
        space, narrow = self._space("targets", part), self._space("rounded", part, tokens.dtype)
        widened = self._space("slopes", part)
        assert space is not None and narrow is not None and widened is not None
        residual = torch.sub(self.bias, self.problem.decoded(part, space), out=space)
        residual.sub_(widened.copy_(narrow.copy_(residual)))
        return residual.add_(widened.copy_(narrow.addmm_(tokens, self.weight.t())))

    def _compare_residual(
        self, part: slice, residual: Tensor, mask: Tensor | None, needs_slopes: bool
    ) -> tuple[Tensor, Tensor | None]:
        """By as few passes over the residual as there can be, which are what counts on a CPU."""
        if self.kind == "mse":
            losses, slopes = _squared_lengths(residual), residual
        else:
            # With the residual r between -beta and beta as slope s, the loss is s (2 r - s) / (2 beta).
            slopes = torch.clamp(residual, -self.beta, self.beta, out=self._space("slopes", part))
            products = residual.mul_(slopes).sum(1)
            losses = products.sub_(_squared_lengths(slopes), alpha=0.5).div_(self.beta)
        loss = losses.sum() if mask is None else torch.dot(losses, mask)
        if not needs_slopes:
            return loss, None
        return loss, slopes if mask is None else slopes.mul_(mask[:, None])

    def _cosine(
        self, part: slice, projected: Tensor, mask: Tensor | None, needs_slopes: bool
    ) -> tuple[Tensor, Tensor | None]:
        targets = self.problem.decoded(part, self._space("targets", part))
        products = torch.mul(projected, targets, out=self._space("products", part))
        pp, tt = (
            torch.linalg.vector_norm(each, dim=1, dtype=projected.dtype).square() for each in (projected, targets)
        )
        losses, ca, cb = factors_from_products(pp, products.sum(1), tt, mask)
        if not needs_slopes:
            return losses.sum(), None
        # The factors shrink with the width; float16 holds the slopes when it is taken out.
        ca, cb = (each.mul(self.problem.weight.shape[0])[:, None] for each in (ca, cb))
        return losses.sum(), projected.mul_(ca).add_(torch.mul(targets, cb, out=products))

    def _space(self, name: str, part: slice, dtype: torch.dtype | None = None) -> Tensor | None:
        if self.bias.is_cuda:
            return None
        if name not in self._memory:
            rows = min(self.problem.chunk_tokens, self.problem.num_tokens)
            self._memory[name] = self.bias.new_empty(rows, len(self.bias), dtype=dtype)
        return self._memory[name][: part.stop - part.start]
