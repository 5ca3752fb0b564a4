"""The projected losses, in torch and in Triton, against float64 and beside eager torch."""

import pytest
import torch
import torch.nn.functional as F
from kdcache_kernels import from_components, layer_norm_affine, proj_cosine, proj_mse
from torch import Tensor

from tests.kernels.problems import LOSSES, Inputs, exact, gradients, make, relative_error, three_ways

# Caps of the relative error: what rounding the result alone may cost, and a little more.
CAPS = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 6e-3}
SHAPES = [((96, 64), 128), ((3, 43, 48), 100), ((70, 37), 77), ((5, 20), 31), ((64, 48), 50)]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def check(errors: dict[str, tuple[float, float]], cap: float) -> None:
    for name, (ours, eager) in errors.items():
        assert ours <= 1.5 * eager + 1e-6, (name, ours, eager)
        assert ours <= cap, (name, ours, cap)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "width"), SHAPES, ids=str)
@pytest.mark.parametrize("kind", LOSSES)
def test_no_further_from_float64_than_eager_autocast(
    form: str, kind: str, shape: tuple[int, ...], width: int, dtype: torch.dtype
) -> None:
    check(three_ways(kind, make(shape, width, dtype), form), CAPS[dtype])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", LOSSES)
def test_outlier_channels_cost_no_more(form: str, kind: str, dtype: torch.dtype) -> None:
    check(three_ways(kind, make((66, 48), 96, dtype, outliers=True), form), CAPS[dtype])


@pytest.mark.parametrize("kind", LOSSES)
def test_a_fitted_student(form: str, kind: str) -> None:
    """At one percent of residual eager torch has lost most of the loss's digits; ours keeps two."""
    check(three_ways(kind, make((96, 48), 96, torch.bfloat16, residual=0.01), form), 3e-2)


def stored(inputs: Inputs, codec: str) -> Inputs:
    """The same problem with targets in another format."""
    tokens = inputs.targets.float()
    if codec in ("fp32", "fp16", "bf16"):
        values = tokens.to({"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[codec])
        return Inputs(inputs.student, inputs.weight, inputs.bias, values, values.double())
    largest = 127 if codec == "int8" else 448
    scale = tokens.abs().amax(-1) / largest
    values = tokens / scale.unsqueeze(-1)
    values = values.round().to(torch.int8) if codec == "int8" else values.to(torch.float8_e4m3fn)
    decoded = values.double() * scale.double().unsqueeze(-1)
    return Inputs(inputs.student, inputs.weight, inputs.bias, values, decoded, scale)


@pytest.mark.parametrize("codec", ["fp32", "fp16", "bf16", "int8", "fp8"])
@pytest.mark.parametrize("kind", LOSSES)
def test_targets_as_the_cache_holds_them(form: str, kind: str, codec: str) -> None:
    check(three_ways(kind, stored(make((2, 35, 48), 96, torch.bfloat16), codec), form), CAPS[torch.bfloat16])


@pytest.mark.parametrize("codec", ["bf16", "int8"])
@pytest.mark.parametrize("kind", ["mse", "cosine"])
def test_layer_normed_teacher(form: str, kind: str, codec: str) -> None:
    inputs = stored(make((2, 35, 48), 96, torch.bfloat16), codec)
    scale, shift = layer_norm_affine(inputs.targets, inputs.scale)
    decoded = F.layer_norm(inputs.decoded, inputs.decoded.shape[-1:])
    normed = Inputs(inputs.student, inputs.weight, inputs.bias, inputs.targets, decoded, scale, shift)
    check(three_ways(kind, normed, form), CAPS[torch.bfloat16])


@pytest.mark.parametrize("kind", LOSSES)
def test_masked_tokens_do_not_count(form: str, kind: str) -> None:
    inputs = make((2, 35, 48), 96, torch.bfloat16)
    mask = torch.arange(70).view(2, 35) % 3 > 0
    chosen = exact_of_selection(kind, inputs, mask)

    def ours(*each: Tensor) -> Tensor:
        return LOSSES[kind](*each, inputs.targets.to(form), mask=mask.to(form))

    found = gradients(ours, *(each.to(form) for each in (inputs.student, inputs.weight, inputs.bias)))
    for mine, right in zip(found, chosen, strict=True):
        assert relative_error(mine, right) < CAPS[torch.bfloat16]
    assert found[1].cpu()[~mask].abs().max() == 0
    nothing = LOSSES[kind](
        inputs.student.to(form),
        inputs.weight.to(form),
        None,
        inputs.targets.to(form),
        mask=torch.zeros_like(mask, device=form),
    )
    assert float(nothing) == 0


def exact_of_selection(kind: str, inputs: Inputs, mask: Tensor) -> tuple[Tensor, ...]:
    def selected(student: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return exact(kind, student[mask], weight, bias, inputs.decoded[mask])

    return gradients(selected, inputs.student.double(), inputs.weight.bfloat16().double(), inputs.bias.double())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_principal_components_stand_for_the_teacher(form: str, dtype: torch.dtype) -> None:
    inputs = make((2, 35, 48), 96, dtype)
    generator = torch.Generator().manual_seed(1)
    basis = torch.linalg.qr(torch.randn(96, 20, generator=generator))[0].t().contiguous()
    mean = torch.randn(96, generator=generator)
    coefficients = ((inputs.targets.float() - mean) @ basis.t()).to(dtype)
    decoded = coefficients.double() @ basis.double() + mean.double()

    def ours(*each: Tensor) -> Tensor:
        return proj_mse(*each, coefficients.to(form), basis=basis.to(form), mean=mean.to(form))

    found = gradients(ours, *(each.to(form) for each in (inputs.student, inputs.weight, inputs.bias)))
    right = gradients(
        lambda *each: exact("mse", *each, decoded),
        inputs.student.double(),
        inputs.weight.to(dtype).double(),
        inputs.bias.double(),
    )
    for mine, wanted in zip(found, right, strict=True):
        assert relative_error(mine, wanted) < CAPS[dtype]


def test_other_losses_take_components_decoded() -> None:
    basis, mean = torch.linalg.qr(torch.randn(24, 6))[0].t().contiguous(), torch.randn(24)
    coefficients = torch.randn(2, 5, 6)
    decoded = from_components(coefficients, basis, mean, dtype=torch.float32)
    torch.testing.assert_close(decoded, coefficients @ basis + mean)
    assert from_components(coefficients, basis).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", LOSSES)
def test_a_slice_of_the_tokens_is_read_in_place(form: str, kind: str) -> None:
    inputs = make((2, 36, 48), 96, torch.bfloat16)
    tokens = inputs.student.to(form)[:, 1:]
    targets, weight = inputs.targets[:, 1:].to(form), inputs.weight.to(form)
    results = []
    for student in (tokens, tokens.contiguous()):
        leaf = student.detach().requires_grad_()
        loss = LOSSES[kind](leaf, weight, None, targets)
        loss.backward()
        results.append((loss.detach(), leaf.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("kind", LOSSES)
def test_rows_of_any_stride(form: str, kind: str) -> None:
    """One number for all tokens expanded, a column of a table, every other bias: kernels see them as torch does."""
    inputs = make((40, 48), 96, torch.bfloat16)
    table = torch.rand(40, 2, generator=torch.Generator().manual_seed(3)) + 0.5
    biases = torch.stack([inputs.bias, -inputs.bias], 1)
    arguments = [each.to(form) for each in (inputs.student, inputs.weight, inputs.targets)]
    for scale, mask in ((torch.tensor(0.5).expand(40), table[:, 1]), (table[:, 0], torch.tensor(1.0).expand(40))):
        strided = {"scale": scale.to(form), "mask": mask.to(form)}
        plain = {name: each.contiguous() for name, each in strided.items()}
        found = LOSSES[kind](arguments[0], arguments[1], biases.to(form)[:, 0], arguments[2], **strided)
        wanted = LOSSES[kind](arguments[0], arguments[1], inputs.bias.to(form), arguments[2], **plain)
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("kind", LOSSES)
def test_the_scale_of_the_masks_does_not_matter(form: str, kind: str) -> None:
    inputs = make((40, 48), 96, torch.float16)
    mask = torch.arange(40.0) % 2

    def loss(size: float) -> tuple[Tensor, ...]:
        return gradients(
            lambda *each: LOSSES[kind](*each, inputs.targets.to(form), mask=(mask * size).to(form)),
            *(each.to(form) for each in (inputs.student, inputs.weight, inputs.bias)),
        )

    for tiny, plain in zip(loss(1e-9), loss(1.0), strict=True):
        torch.testing.assert_close(tiny, plain)


def test_large_weights_stay_in_float16(form: str) -> None:
    inputs = make((40, 48), 96, torch.float16)
    student = (inputs.student * 1e-2).to(form).requires_grad_()
    proj_mse(student, (inputs.weight * 200).to(form), None, inputs.targets.to(form)).backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_a_token_without_length_spoils_no_weight(form: str) -> None:
    inputs = make((40, 48), 96, torch.float16)
    student, weight = inputs.student.clone().to(form), inputs.weight.to(form).requires_grad_()
    student[3] = 0
    proj_cosine(student, weight, None, inputs.targets.to(form)).backward()
    assert weight.grad is not None
    assert weight.grad.isfinite().all()


@pytest.mark.parametrize("kind", LOSSES)
def test_the_same_bits_every_time(form: str, kind: str) -> None:
    inputs = make((130, 48), 96, torch.bfloat16)
    arguments = [each.to(form) for each in (inputs.student, inputs.weight, inputs.bias)]
    first, second = (gradients(lambda *each: LOSSES[kind](*each, inputs.targets.to(form)), *arguments) for _ in "ab")
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))


def test_a_loss_scale_reaches_the_gradient_before_it_is_rounded(form: str) -> None:
    """A gradient below float16's range keeps its digits when the loss is scaled."""
    inputs = make((200, 48), 96, torch.float16)
    arguments = (inputs.student.to(form), inputs.weight.to(form), inputs.bias.to(form))
    small, scale = 1e-6, 2.0**16

    def scaled(*each: Tensor) -> Tensor:
        return proj_mse(*each, inputs.targets.to(form)) * (small * scale)

    right = gradients(
        lambda *each: exact("mse", *each, inputs.decoded) * (small * scale),
        inputs.student.double(), inputs.weight.half().double(), inputs.bias.double(),
    )  # fmt: skip
    assert relative_error(gradients(scaled, *arguments)[1], right[1]) < CAPS[torch.float16]
    assert float(right[1].abs().max()) / scale < 6e-8


@pytest.mark.parametrize("kind", LOSSES)
def test_under_autocast_the_student_is_cast_as_for_a_linear_layer(kind: str) -> None:
    inputs = make((40, 24), 48, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = LOSSES[kind](inputs.student, inputs.weight, inputs.bias, inputs.targets)
    by_hand = LOSSES[kind](inputs.student.bfloat16(), inputs.weight, inputs.bias, inputs.targets)
    assert torch.equal(cast, by_hand)
    assert cast.dtype == torch.float32


def test_no_gradient_is_made_for_what_needs_none() -> None:
    inputs = make((10, 8), 16, torch.float32)
    weight = inputs.weight.clone().requires_grad_()
    proj_cosine(inputs.student, weight, None, inputs.targets).backward()
    assert weight.grad is not None
    assert weight.grad.abs().sum() > 0


def test_inputs_that_do_not_fit_are_refused() -> None:
    student, weight, targets = torch.zeros(5, 3), torch.zeros(4, 3), torch.zeros(5, 4)
    for arguments, message in (
        ((student, weight, None, torch.zeros(5, 5)), r"targets must have shape \(5, 4\), got \(5, 5\)"),
        ((student, torch.zeros(4, 2), None, targets), r"weight must be \(Dt, 3\)"),
        ((student, weight, torch.zeros(3), targets), r"bias must be \(4,\)"),
        ((torch.zeros(0, 3), weight, None, targets), "at least one token"),
        ((student.long(), weight, None, targets), "float dtype"),
        ((student.to(torch.float8_e4m3fn), weight, None, targets), "float dtype"),
    ):
        with pytest.raises(ValueError, match=message):
            proj_mse(*arguments)
    with pytest.raises(ValueError, match=r"scale must have shape \(5,\), got \(4,\)"):
        proj_mse(student, weight, None, targets, scale=torch.zeros(4))
    with pytest.raises(ValueError, match="beta"):
        LOSSES["smooth_l1"](student, weight, None, targets, beta=0.0)
    with pytest.raises(ValueError, match=r"basis must be \(R, 4\)"):
        proj_mse(student, weight, None, targets, basis=torch.zeros(2, 5))
