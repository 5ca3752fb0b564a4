"""Lillama's term: both paths by a plain formula, gradients that stay in their block, what is refused, training."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from kdcache.cache import open_cache
from kdcache.errors import ModelError, TapError, UsageError
from kdcache.methods.base import Method
from kdcache.models.network import Network
from kdcache.stream.targets import PackedTargets
from kdcache.students.low_rank import LowRank
from kdcache.terms.base import Inputs, Site, TeacherNeed
from kdcache.terms.local import Local
from kdcache.train.setup import prepare
from tests.conftest import DEEP_KWARGS
from tests.methods.support import one_batch
from tests.terms import support
from tests.terms.support import draw, pack
from tests.train.support import tiny_run

VIT = {"img_size": 16, "patch_size": 4, "embed_dim": 12, "depth": 3, "num_heads": 3, "num_classes": 5}
IMAGES = draw(2, 3, 16, 16, seed=9)
SAME = {name: value for name, value in DEEP_KWARGS.items() if name not in ("img_size", "num_classes")}


def student(name: str = "vit_tiny_patch16_224", **kwargs: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model(name, **(kwargs or VIT)).train()


def outputs(num_prefix: int = 1, num_blocks: int = 3) -> list[Tensor]:
    """What a teacher's blocks gave: (2, prefix + 16, 12) each."""
    return [draw(2, num_prefix + 16, 12, seed=20 + block) for block in range(num_blocks)]


def packed(tokens: Sequence[Tensor], num_prefix: int = 1) -> list[PackedTargets]:
    """Columns of patch tokens, then columns of prefix tokens, as needs() orders them."""
    targets = [pack(each[:, num_prefix:], (4, 4), tap=f"blocks.{block}/patch") for block, each in enumerate(tokens)]
    if num_prefix:
        prefix = [each[:, :num_prefix] for each in tokens]
        targets += [pack(each, kind="prefix", tap=f"blocks.{block}/prefix") for block, each in enumerate(prefix)]
    return targets


def site_of(model: nn.Module, targets: Sequence[PackedTargets]) -> Site:
    columns = [each.column for each in targets]
    return Site([], columns, lambda column: pytest.fail("no statistics"), Network(model, lambda images: []), 16)


def loss_of(term: Local, model: nn.Module, targets: Sequence[PackedTargets], images: Tensor = IMAGES) -> Tensor:
    assert term.modules(site_of(model, targets)) is None
    network = Network(model, lambda images: pytest.fail("it reads no taps"))
    return term(Inputs(images.new_zeros(len(images), 3), images[:, 0, 0, 0], [], targets, images, network), None)


def distance(found: Tensor, wanted: Tensor) -> float:
    """The paper's distance, written out."""
    a, y = found.double(), wanted.double()
    cosine = (a * y).sum(-1) / (a.square().sum(-1) * y.square().sum(-1)).sqrt()
    return float(((a - y).abs().sum(-1) / a.shape[-1] - (1 / (1 + (-cosine).exp())).log()).mean())


def embedded(model: Any) -> Tensor:
    return model.norm_pre(model._pos_embed(model.patch_embed(IMAGES)))


def expected(model: Any, teacher: Sequence[Tensor], start: Tensor, blocks: Sequence[int], mode: str) -> float:
    total, own = 0.0, start
    with torch.no_grad():
        for block, module in enumerate(model.blocks):
            own = module(own)
            if block in blocks and mode != "teacher":
                total += distance(own, teacher[block])
            if block in blocks and mode != "student":
                total += distance(module(teacher[block - 1] if block else start), teacher[block])
    return total / len(blocks)


@pytest.mark.parametrize("mode", ["teacher", "student", "both"])
@pytest.mark.parametrize("blocks", [(), (0,), (2, 1)], ids=str)
def test_both_paths_are_the_papers(mode: str, blocks: tuple[int, ...]) -> None:
    model, teacher = student(), outputs()
    found = loss_of(Local(mode=mode, blocks=blocks), model, packed(teacher))
    wanted = expected(model, teacher, embedded(model), blocks or (0, 1, 2), mode)
    assert float(found.detach()) == pytest.approx(wanted, rel=1e-5)


def test_without_prefix_tokens_in_its_blocks_patch_tokens_are_all() -> None:
    model, teacher = student("cait_xxs24_224", **{**VIT, "depth": 2}), outputs(0, 2)
    found = loss_of(Local(), model, packed(teacher, 0))
    start = model.patch_embed(IMAGES) + model.pos_embed
    assert float(found.detach()) == pytest.approx(expected(model, teacher, start, (0, 1), "both"), rel=1e-5)


def test_a_copy_of_the_teacher_has_the_least_loss() -> None:
    """Its cosines are 1 on both paths, and -log sigmoid(1) is left; so block 0 is fed the right thing."""
    model = student()
    teacher, tokens = [], embedded(model)
    with torch.no_grad():
        for block in model.blocks:
            tokens = block(tokens)
            teacher.append(tokens)
    found = loss_of(Local(), model, packed(teacher))
    assert float(found.detach()) == pytest.approx(2 * math.log(1 + math.exp(-1)), rel=1e-5)


def gradients(term: Local, targets: Sequence[PackedTargets], **student_kwargs: Any) -> dict[str, Tensor]:
    model = student(**student_kwargs)
    loss_of(term, model, targets).backward()
    return {name: each.grad for name, each in model.named_parameters() if each.grad is not None}


@pytest.mark.parametrize("mode", ["teacher", "student", "both"])
def test_no_gradient_crosses_blocks(mode: Any) -> None:
    """A block's loss has a gradient in its own parameters alone, and they are those of the loss of all blocks."""
    targets = packed(outputs())
    whole = gradients(Local(mode=mode), targets)
    for block in range(3):
        alone = gradients(Local(mode=mode, blocks=(block,)), targets)
        assert {name.split(".")[1] for name in alone} == {str(block)}
        assert all(name.startswith("blocks.") for name in whole)
        for name, gradient in alone.items():
            assert gradient.abs().sum() > 0 or name.endswith("attn.qkv.bias")
            torch.testing.assert_close(whole[name], gradient / 3, rtol=1e-4, atol=1e-9)
    assert len(whole) == sum(1 for name, _ in student().named_parameters() if name.startswith("blocks."))


def test_the_gradient_by_finite_differences() -> None:
    model, targets = student().double(), packed(outputs())
    term = Local(blocks=(1,))
    norm = model.blocks[1].norm2

    def loss(weight: Tensor, bias: Tensor) -> Tensor:
        changed = {"blocks.1.norm2.weight": weight, "blocks.1.norm2.bias": bias}
        return torch.func.functional_call(Wrapped(model, term, targets), {f"model.{k}": v for k, v in changed.items()})

    assert torch.autograd.gradcheck(loss, (norm.weight, norm.bias), fast_mode=True)


class Wrapped(nn.Module):
    """A term's loss as a forward, so that its parameters can be replaced."""

    def __init__(self, model: nn.Module, term: Local, targets: Sequence[PackedTargets]) -> None:
        super().__init__()
        self.model, self.term, self.targets = model, term, targets

    def forward(self) -> Tensor:
        network = Network(self.model, lambda images: [])
        images = IMAGES.double()
        return self.term(Inputs(torch.zeros(2, 3), torch.zeros(2), [], self.targets, images, network), None)


def test_halves_of_a_batch_average_to_the_whole() -> None:
    model, targets = student(), packed(outputs())
    whole = loss_of(Local(), model, targets)
    parts = [slice(1), slice(1, 2)]
    halves = [loss_of(Local(), model, [each.rows(part) for each in targets], IMAGES[part]) for part in parts]
    torch.testing.assert_close(sum(halves) / 2, whole, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_bf16_autocast(checkpointing: bool) -> None:
    """Also with checkpointing, no parameter of a block is left without a gradient near that in fp32."""
    model, targets = student(), packed(outputs())
    exact = gradients(Local(), targets)
    model.set_grad_checkpointing(checkpointing)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss_of(Local(), model, targets)
    found.backward()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, loss_of(Local(), student(), targets), rtol=1e-2, atol=0)
    for name, gradient in exact.items():
        own = model.get_parameter(name).grad
        assert own is not None and (own - gradient).norm() < 0.1 * gradient.norm() + 1e-4


def test_what_it_reads() -> None:
    assert list(Local().needs().teacher) == [TeacherNeed("patch", blocks=()), TeacherNeed("prefix", blocks=())]
    some = Local(teacher="wide::int8", blocks=(4, 0))
    assert list(some.needs().teacher) == [
        TeacherNeed(kind, None, "wide", "int8", blocks=(0, 3, 4)) for kind in ("patch", "prefix")
    ]
    assert Local(blocks=(4, 0), mode="student").needs().teacher[0].blocks == (0, 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "all"}, "mode must be one of teacher, student, both, got 'all'"),
        ({"blocks": (-1,)}, r"blocks are counted from 0, each once, got \(-1,\)"),
        ({"blocks": (1, 1)}, r"each once, got \(1, 1\)"),
        ({"teacher": "blocks.0/patch"}, "reads whole blocks, got teacher=blocks.0/patch"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Local(**settings)


def test_missing_blocks_are_named() -> None:
    targets = packed(outputs())
    held = [each for each in targets if each.column.tap not in ("blocks.1/patch", "blocks.0/prefix")]
    with pytest.raises(TapError, match=r"blocks 0, 1, 2; the cache lacks blocks.0/prefix, blocks.1/patch$"):
        Local().modules(site_of(student(), held))
    with pytest.raises(TapError, match=r"blocks 1, 2; the cache lacks blocks.1/patch$"):
        Local(blocks=(2,)).modules(site_of(student(), held))
    Local(blocks=(2,), mode="student").modules(site_of(student(), held))


def test_students_that_are_refused() -> None:
    targets = packed(outputs())
    with pytest.raises(
        ValueError, match="block 0 of the student makes 17 tokens of 24 channels, the teacher's 17 of 12"
    ):
        Local().modules(site_of(student(**{**VIT, "embed_dim": 24}), targets))
    with pytest.raises(ValueError, match="the student has the blocks 0 to 2, got blocks=\\(3,\\)"):
        Local(blocks=(3,)).modules(site_of(student(), targets))
    with pytest.raises(ModelError, match="ResNet has no row of blocks that run one by one"):
        Local().modules(site_of(student("resnet10t", num_classes=5), targets))


def test_another_depth_than_the_teachers_is_refused() -> None:
    targets = packed(outputs())
    site = replace(site_of(student(), targets), teacher_depth=lambda column: 12)
    for blocks in ((), (0, 1)):
        with pytest.raises(
            ValueError, match="the student has 3 blocks and the teacher of group a has 12, and the term"
        ):
            Local(blocks=blocks).modules(site)
    Local().modules(replace(site, teacher_depth=lambda column: 3))
    Local().modules(replace(site, teacher_depth=lambda column: None))


@pytest.mark.parametrize(("search", "factored"), [("bottom", (0,)), ("top", (2,))])
@pytest.mark.parametrize("mode", ["teacher", "student", "both"])
def test_of_a_low_rank_copy_the_factored_blocks_alone_are_taught(search: Any, factored: tuple[int], mode: Any) -> None:
    """What is dense is the teacher's still: no loss, no gradient, no target, and nothing above the last is run."""
    change = LowRank(budget=0.1, search=search, init="random")
    model = change.apply(lambda: student(**{**VIT, "embed_dim": 48}))
    targets = packed([draw(2, 17, 48, seed=20 + block) for block in range(3)])
    wanted = Local(mode=mode, blocks=factored)
    read = set(wanted.needs().teacher[0].blocks or ())
    held = [each for each in targets if int(each.column.tap[len("blocks.")]) in read]
    Local(mode=mode).modules(site_of(model, held))
    with pytest.raises(TapError, match=rf"the cache lacks blocks\.{min(read)}/patch$"):
        Local(mode=mode).modules(site_of(model, held[1:]))
    for block in model.blocks[factored[-1] + 1 :]:
        block.register_forward_pre_hook(lambda *_: pytest.fail("this block need not be run"))
    inputs = Inputs(torch.zeros(2, 3), torch.zeros(2), [], held, IMAGES, Network(model, lambda images: []))
    found = Local(mode=mode)(inputs, None)
    torch.testing.assert_close(found, wanted(inputs, None), rtol=0, atol=0)
    found.backward()
    taught = {name.split(".")[1] for name, each in model.named_parameters() if each.grad is not None}
    assert taught == {str(block) for block in factored}


def test_it_falls_in_training(blocks_root: Path, tmp_path: Path) -> None:
    support.check_training(blocks_root, tmp_path / "run", Local(), factor=0.9, student_kwargs=SAME)


def test_a_cache_without_the_blocks_is_refused_before_the_first_step(tiny_root: Path) -> None:
    method = Method(name="mine", terms=(Local(),))
    shallow = {**SAME, "depth": 2}  # as that teacher
    with pytest.raises(TapError, match=r"the cache lacks blocks\.0/prefix$"):
        prepare(tiny_run("data.codec=int8", method=method, student_kwargs=shallow), open_cache(tiny_root))
    with pytest.raises(UsageError, match="block 1 of the student makes 17 tokens of 12 channels, the teacher's 17 of"):
        some = method.with_terms([Local(blocks=(1,), mode="student")])
        prepare(tiny_run("data.codec=int8", method=some), open_cache(tiny_root))
    with pytest.raises(UsageError, match=r"the student has 3 blocks and the teacher of group .* has 2"):
        prepare(tiny_run("data.codec=int8", method=method, student_kwargs=SAME), open_cache(tiny_root))


def test_alone_it_trains_a_low_rank_copy_of_the_teacher(blocks_root: Path) -> None:
    """What is left of the loss above that of the teacher itself halves."""
    cache = open_cache(blocks_root)
    method = Method(name="mine", terms=(Local(),), change=LowRank(rank=8))
    weights = str(blocks_root.parent / "teacher.safetensors")
    step = prepare(tiny_run("data.codec=none", method=method, student_kwargs=SAME, student_weights=weights), cache).step
    batch = one_batch(cache)
    wanted = {column.name for bound in step.terms for column in bound.columns}
    targets = {name: values for name, values in batch.targets.items() if name in wanted}
    images = batch.normalized(slice(None))
    optimizer = torch.optim.AdamW(step.parameters(), lr=3e-3)
    losses: list[float] = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = step(images, batch.labels, targets)[0]["loss"]
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    least = 2 * math.log(1 + math.exp(-1))
    assert least < losses[-1] < least + 0.5 * (losses[0] - least)
