"""The operations as torch sees them: schema, fakes, autograd and compilation; and planted faults that must show."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kdcache_kernels import proj_mse
from kdcache_kernels.device import gram_ds, gram_small, gram_sums
from kdcache_kernels.launches import Traffic
from kdcache_kernels.projection import algorithm
from kdcache_kernels.projection_operators import proj_loss, proj_loss_backward
from kdcache_kernels.projection_problem import Problem, TokenRows
from torch import Tensor

from tests.kernels.problems import LOSSES, gradients, make, relative_error, three_ways
from tests.kernels.test_proj_loss import CAPS, check

KINDS = list(LOSSES)


def arguments(dtype: torch.dtype = torch.float64, *, packed: bool = False) -> tuple[Any, ...]:
    """Small inputs of the raw operation, without kind and beta."""
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    student = normal(2, 6, 5).to(dtype).requires_grad_()
    weight, bias = normal(9, 5).requires_grad_(), normal(9).requires_grad_()
    values = torch.randint(-127, 128, (12, 9), generator=generator).to(torch.int8) if packed else normal(12, 9)
    rows = normal(12).abs() / 60, normal(12), torch.rand(12, generator=generator, dtype=torch.float64)
    return student, weight, bias, values, *rows, None


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_finite_differences(kind: str) -> None:
    student, weight, bias, *rest = arguments()
    assert torch.autograd.gradcheck(
        lambda *each: proj_loss(*each, *rest, kind, 0.7, True, True)[0], (student, weight, bias)
    )


def test_the_gram_form_has_them_too() -> None:
    basis = torch.linalg.qr(torch.randn(9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))[0]
    student, weight, bias, *_ = arguments()
    values = torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    rest = (values, None, None, None, basis.t().contiguous())
    assert torch.autograd.gradcheck(
        lambda *each: proj_loss(*each, *rest, "mse", 1.0, True, True)[0], (student, weight, bias)
    )


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's own, while it checks
@pytest.mark.parametrize("kind", KINDS)
def test_torch_finds_no_fault_with_the_operations(kind: str) -> None:
    tensors = arguments(packed=True)
    for wanted in ((True, True), (True, False), (False, True)):
        flags = (wanted[0], wanted[1], wanted[1])
        leaves = [each.detach().requires_grad_(flag) for each, flag in zip(tensors[:3], flags, strict=True)]
        torch.library.opcheck(proj_loss, (*leaves, *tensors[3:], kind, 1.0, *wanted))
    detached = [each.detach() if isinstance(each, Tensor) else each for each in tensors]
    made = proj_loss(*detached, kind, 1.0, True, True)[1:]
    detached[3] = None
    for needs in ([True, True, True], [False, True, False]):
        torch.library.opcheck(proj_loss_backward, (torch.tensor(3.0), *detached, *made, kind, 1.0, needs))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_a_transposed_weight_keeps_the_promised_strides() -> None:
    student, weight, *rest = (each if each is None else each.detach().float() for each in arguments())
    transposed = weight.t().contiguous().t().requires_grad_()
    assert not transposed.is_contiguous()
    torch.library.opcheck(proj_loss, (student, transposed, *rest, "smooth_l1", 1.0, False, True))


@pytest.mark.parametrize("kind", KINDS)
def test_compiles_whole(kind: str) -> None:
    inputs = make((3, 7, 12), 24, torch.float32)

    def loss(student: Tensor, weight: Tensor) -> Tensor:
        return 2 * LOSSES[kind](torch.tanh(student)[:, 1:], weight, None, inputs.targets[:, 1:])

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    gradients = []
    for function in (loss, compiled):
        leaves = [each.clone().requires_grad_() for each in (inputs.student, inputs.weight)]
        function(*leaves).backward()
        gradients.append([each.grad for each in leaves])
    for eager, whole in zip(*gradients, strict=True):
        torch.testing.assert_close(whole, eager)


def test_the_algorithm_follows_widths_and_types() -> None:
    def problem(width: int, depth: int, dtype: torch.dtype, basis: Tensor | None = None) -> Problem:
        student, weight = torch.zeros(4, width, dtype=dtype), torch.zeros(depth, width)
        return Problem(student, weight, torch.zeros(depth), torch.zeros(4, depth), None, None, None, basis)

    assert algorithm(problem(8, 12, torch.bfloat16), "mse") == "gram"
    assert algorithm(problem(8, 11, torch.bfloat16), "mse") == "direct"
    assert algorithm(problem(8, 32, torch.float32), "mse") == "direct"
    assert algorithm(problem(8, 32, torch.float32, torch.eye(32)), "mse") == "gram"
    assert algorithm(problem(8, 32, torch.bfloat16), "smooth_l1") == "direct"
    assert algorithm(problem(8, 32, torch.bfloat16), "cosine") == "cosine"
    masked = problem(8, 32, torch.bfloat16)
    assert algorithm(replace(masked, mask=torch.ones(4, dtype=torch.bool)), "mse") == "gram"
    assert algorithm(replace(masked, mask=torch.ones(4)), "mse") == "direct"


def test_rows_of_a_slice_are_addressed_and_not_copied() -> None:
    whole = torch.arange(2 * 5 * 4.0).view(2, 5, 4)
    rows = TokenRows(whole[:, 1:])
    assert (rows.per_batch, rows.batch_stride, rows.row_stride) == (4, 20, 4)
    assert (TokenRows(whole).per_batch, TokenRows(whole).batch_stride) == (10, 0)
    with pytest.raises(ValueError, match="contiguous"):
        TokenRows(whole.transpose(1, 2))


def test_a_planted_wrong_reduction_is_caught(triton_form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks of the other tests fail when one split of the tokens is left out of the sums."""
    honest = gram_sums.launch

    def forgets_a_split(*given: Any) -> gram_sums.Sums:
        sums = honest(*given)
        assert len(sums.values) > 1
        return replace(sums, values=sums.values[:-1].contiguous())

    inputs = make((130, 48), 96, torch.bfloat16)
    check(three_ways("mse", inputs, triton_form), CAPS[torch.bfloat16])
    monkeypatch.setattr(gram_sums, "launch", forgets_a_split)
    with pytest.raises(AssertionError, match="loss"):
        check(three_ways("mse", inputs, triton_form), CAPS[torch.bfloat16])


def test_a_planted_unwritten_output_is_caught(triton_form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs begin as NaN, so a tile that no program writes cannot pass."""
    honest = gram_ds.gram_ds

    class OneProgramShort:
        def __getitem__(self, grid: tuple[int, int]) -> Any:
            return honest[(grid[0] - 1, grid[1])]

    monkeypatch.setattr(gram_ds, "gram_ds", OneProgramShort())
    with pytest.raises(AssertionError, match="student"):
        check(three_ways("mse", make((130, 48), 96, torch.bfloat16), triton_form), CAPS[torch.bfloat16])


def test_a_step_takes_few_launches(triton_form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between a sweep of 60 us and the next, what a launch costs the host (5 to 25 us) is what a user waits for."""
    kernels: list[str] = []

    class Counted:
        def __init__(self, name: str) -> None:
            self.name = name

        def __getitem__(self, grid: Any) -> Any:
            return lambda *_, **__: kernels.append(self.name)

    monkeypatch.setattr(gram_sums, "gram_sums", Counted("gram_sums"))
    monkeypatch.setattr(gram_ds, "gram_ds", Counted("gram_ds"))
    for name in ("gram_reduce", "gram_finish", "gram_prepare"):
        monkeypatch.setattr(gram_small, name, Counted(name))
    inputs = make((130, 48), 96, torch.bfloat16)
    leaves = [each.to(triton_form).requires_grad_() for each in (inputs.student, inputs.weight, inputs.bias)]
    targets = inputs.targets.to(triton_form)
    with Traffic() as torch_launches:
        proj_mse(*leaves, targets).backward()
    assert kernels == ["gram_sums", "gram_reduce", "gram_finish", "gram_prepare", "gram_ds"]
    assert Counter(torch_launches.names) == {
        "aten::ones_like": 1, "aten::_to_copy": 2, "aten::full": 1,
        "aten::sum": 1, "aten::mul": 1, "aten::_foreach_mul": 1,
        # Not on a GPU: what pads the sums, for numpy's sake.
        **({"aten::zero_": 1} if triton_form == "cpu" else {}),
    }  # fmt: skip


def test_weights_of_tokens_cost_no_accuracy(form: str) -> None:
    """A fitted student's loss is a small difference of large sums, and rounded weights would not cancel in it."""
    inputs = make((2, 35, 48), 96, torch.bfloat16, residual=0.05)
    mask = torch.rand(2, 35, generator=torch.Generator().manual_seed(1))

    def weighed(*each: Tensor) -> Tensor:
        return (mask * (F.linear(*each) - inputs.decoded).square().mean(-1)).sum() / mask.double().sum()

    truth = gradients(weighed, inputs.student.double(), inputs.weight.bfloat16().double(), inputs.bias.double())
    found = gradients(
        lambda *each: LOSSES["mse"](*each, inputs.targets.to(form), mask=mask.to(form)),
        *(each.to(form) for each in (inputs.student, inputs.weight, inputs.bias)),
    )
    errors = [relative_error(mine, right) for mine, right in zip(found, truth, strict=True)]
    assert max(errors) < CAPS[torch.bfloat16], errors
    assert errors[0] < 1e-3


@pytest.mark.parametrize("of", ["student", "weight", "bias"])
def test_there_is_no_second_derivative_to_get_wrong(of: str) -> None:
    """Of a loss squared, too, whose upstream gradient has a derivative of its own."""
    inputs = make((6, 4), 8, torch.float32)
    leaves = {name: getattr(inputs, name).clone().requires_grad_() for name in ("student", "weight", "bias")}
    loss = proj_mse(*leaves.values(), inputs.targets).square()
    (gradient,) = torch.autograd.grad(loss, leaves[of], create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        gradient.sum().backward()
