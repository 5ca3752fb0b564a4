"""The operations as torch sees them: schema, fakes, autograd and compilation; and planted faults that must show."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kdcache_kernels import gram, proj_mse
from kdcache_kernels.device import gram_ds, gram_small, gram_sums
from kdcache_kernels.device import projection as device_projection
from kdcache_kernels.direct import eager_loss
from kdcache_kernels.projection import algorithm, choice, proj_loss, proj_loss_ds, runs_eagerly
from kdcache_kernels.projection_problem import Problem, TokenRows
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from tests.kernels.problems import LOSSES, make, three_ways
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
    assert torch.autograd.gradcheck(lambda *each: proj_loss(*each, *rest, kind, 0.7)[0], (student, weight, bias))


def test_the_gram_form_has_them_too() -> None:
    basis = torch.linalg.qr(torch.randn(9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))[0]
    student, weight, bias, *_ = arguments()
    values = torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    rest = (values, None, None, None, basis.t().contiguous())
    assert torch.autograd.gradcheck(lambda *each: proj_loss(*each, *rest, "mse", 1.0)[0], (student, weight, bias))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's own, while it checks
@pytest.mark.parametrize("kind", KINDS)
def test_torch_finds_no_fault_with_the_operations(kind: str) -> None:
    inputs = (*arguments(packed=True), kind, 1.0)
    torch.library.opcheck(proj_loss, inputs)
    detached = [each.detach() if isinstance(each, Tensor) else each for each in inputs[:-2]]
    factors = torch.ones(2, 12 if kind == "cosine" else 0, dtype=torch.float64)
    torch.library.opcheck(proj_loss_ds, (torch.tensor(3.0), *detached, factors, kind, 1.0))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_a_transposed_weight_keeps_the_promised_strides() -> None:
    student, weight, *rest = (each if each is None else each.detach().float() for each in arguments())
    transposed = weight.t().contiguous().t().requires_grad_()
    assert not transposed.is_contiguous()
    torch.library.opcheck(proj_loss, (student, transposed, *rest, "smooth_l1", 1.0))


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


@pytest.mark.parametrize("masked", ["no", "bool", "weights"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_eager_form_is_the_same_loss(kind: str, masked: str) -> None:
    student, weight, bias, values, scale, shift, *_ = (
        each.detach() if isinstance(each, Tensor) else each for each in arguments(packed=True)
    )
    mask = None if masked == "no" else torch.arange(float(values.shape[0])) % 3
    mask = mask > 0 if mask is not None and masked == "bool" else mask

    def gradients(loss: Any) -> list[Tensor]:
        leaves = [each.clone().requires_grad_() for each in (student, weight, bias)]
        value = loss(Problem(*leaves, values, scale, shift, mask, None))
        return [value.detach(), *torch.autograd.grad(value, leaves)]

    def opaque(given: Problem) -> Tensor:
        fields = (given.student, given.weight, given.bias, values, scale, shift, mask, None)
        return proj_loss(*fields, kind, 0.7)[0]

    expected = gradients(opaque)
    for mine, wanted in zip(gradients(lambda given: eager_loss(given, kind, 0.7)), expected, strict=True):
        torch.testing.assert_close(mine, wanted)


def test_a_gpu_without_kernels_runs_eagerly_where_sums_do_not_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KD_KERNELS", "torch")
    with FakeTensorMode():
        given = [
            torch.empty(size, device="cuda", dtype=torch.bfloat16) for size in ((64, 32), (64, 32), (64,), (64, 64))
        ]
        on_gpu = Problem(*given, None, None, None, None)
        assert [kind for kind in KINDS if runs_eagerly(on_gpu, kind)] == ["smooth_l1", "cosine"]
        on_cpu = Problem(*(torch.empty(each.shape, dtype=torch.bfloat16) for each in given), None, None, None, None)
        assert not any(runs_eagerly(on_cpu, kind) for kind in KINDS)


class Traffic(TorchDispatchMode):
    """Counts operations that would launch on a GPU, and the bytes that they read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.launches, self.bytes, self.double_flops = 0, 0, 0
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.is_view or func.namespace != "aten" or "empty" in func._schema.name:
            return result
        flat, _ = tree_flatten((args, kwargs, result))
        tensors = {id(each): each for each in flat if isinstance(each, Tensor)}.values()
        self.launches += 1
        self.names.append(func._schema.name)
        self.bytes += sum(each.numel() * each.element_size() for each in tensors)
        if func._schema.name == "aten::mm" and args[0].dtype == torch.float64:
            self.double_flops += 2 * args[0].numel() * args[1].shape[1]
        return result


@pytest.mark.parametrize(
    ("width", "depth", "stored"),
    [(192, 768, torch.bfloat16), (192, 384, torch.float16), (192, 384, torch.int8), (384, 1024, torch.int8)],
)
def test_the_library_form_moves_less_than_eager_on_a_gpu(width: int, depth: int, stored: torch.dtype) -> None:
    """On a pretended GPU: it is what every card without a table runs, so it must not lose to what users had."""
    with FakeTensorMode():
        num_tokens = 256 * 196
        student = torch.empty(num_tokens, width, device="cuda", dtype=torch.bfloat16)
        weight, bias = torch.empty(depth, width, device="cuda"), torch.empty(depth, device="cuda")
        values = torch.empty(num_tokens, depth, device="cuda", dtype=stored)
        scale = torch.empty(num_tokens, device="cuda") if stored == torch.int8 else None
        upstream = torch.empty((), device="cuda")
        problem = Problem(student, weight, bias, values, scale, None, None, None)
        with Traffic() as ours:
            gram.finish(gram.token_sums(problem), problem)
            gram.student_gradient(upstream, problem)
        with Traffic() as eager:
            rounded = weight.bfloat16()
            projected = torch.addmm(bias.bfloat16(), student, rounded.t()).float()
            wanted = values.float() if scale is None else values.float() * scale[:, None]
            torch.ops.aten.mse_loss(projected, wanted)
            gradient = torch.ops.aten.mse_loss_backward(upstream, projected, wanted, 1).bfloat16()
            _ = gradient @ rounded, gradient.t() @ student, gradient.sum(0)
    assert ours.bytes < 0.9 * eager.bytes, (ours.bytes, eager.bytes)
    assert ours.launches < 100
    # A consumer card does about 1 TFLOP/s in float64: no more than 2 N / 1000 of the products may be in it.
    assert ours.double_flops < 2 * depth * width**2 * 1.5


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
    with Traffic() as around:
        proj_mse(*leaves, targets).backward()
    assert kernels == ["gram_sums", "gram_reduce", "gram_finish", "gram_prepare", "gram_ds"]
    # The first upstream gradient, and its products with those of weight and bias.
    assert around.names == ["aten::ones_like", "aten::mul", "aten::mul"]
    problem = Problem(*(each.detach() for each in leaves), targets, None, None, None, None)
    configs = choice(problem, "mse").configs
    with Traffic() as within:
        device_projection.gram(problem, configs)
        device_projection.gram_student_gradient(torch.ones((), device=triton_form), problem, torch.empty(2, 0), configs)
    assert Counter(within.names) == {
        "aten::_to_copy": 2, "aten::full": 1, "aten::sum": 1, "aten::ones": 1, "aten::mul": 1
    }  # fmt: skip


def test_there_is_no_second_derivative_to_get_wrong() -> None:
    inputs = make((6, 4), 8, torch.float32)
    weight = inputs.weight.clone().requires_grad_()
    student = inputs.student.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(proj_mse(student, weight, None, inputs.targets), student, create_graph=True)
    with pytest.raises(RuntimeError):
        gradient.sum().backward()
    assert F.mse_loss(gradient, gradient) == 0
