"""Columns, packed targets, sites and short runs for tests of terms."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdcache.cache.column import Column
from kdcache.cache.facts import ColumnFacts
from kdcache.cache.statistics import TokenStatistics
from kdcache.methods.base import Method
from kdcache.stream.targets import PackedTargets, field_dtype
from kdcache.terms.base import Inputs, Site, Term, TokenShape
from kdcache.train.config import DataConfig, RunConfig
from kdcache.train.loop import train
from kdcache.train.metrics import read_metrics
from kdcache.train.optimizer import OptimizerConfig
from tests.conftest import STUDENT_KWARGS

Grid = tuple[int, int]


def draw(*shape: int, seed: int = 0, offset: float = 0.3, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normal values around an offset, the same for the same arguments."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) + offset).to(dtype)


def make_column(shape: Sequence[int], grid: Sequence[int] = (), *, codec: str = "fp32", **facts: Any) -> Column:
    """A column that is in no cache; `facts` may name group, kind and tap."""
    group = facts.pop("group", "a")
    kind = facts.pop("kind", "patch")
    tap = facts.pop("tap", f"blocks.1/{kind}")
    name = f"{tap.replace('.', '-').replace('/', '-')}-{codec}"
    held = {"kind": kind, "tap": tap, "codec": codec, "params": {}, "stride_bytes": 0, **facts}
    return Column(group, ColumnFacts(name=name, shape=list(shape), grid=list(grid), **held))


def pack(values: Tensor, grid: Sequence[int] = (), **facts: Any) -> PackedTargets:
    """Targets (B, ...) as the codec of a column stores them."""
    column = make_column(values.shape[1:], grid, **facts)
    codec = column.make_codec()
    fields = codec.encode(values.float().numpy())
    layout = codec.layout(tuple(values.shape[1:]))
    return PackedTargets(
        column,
        {
            field.name: torch.from_numpy(fields[field.name].copy()).view(field_dtype(field, codec.packed))
            for field in layout.fields
        },
    )


def decoded(targets: PackedTargets) -> PackedTargets:
    """The same targets as a column of plain float32 would hold them."""
    return pack(targets.decode(), targets.column.grid, group=targets.column.group, kind=targets.column.kind)


def statistics_of(values: Tensor, *, with_moments: bool = True) -> TokenStatistics:
    """Statistics over (B, N, C)."""
    found = TokenStatistics(values.shape[-1], with_moments)
    found.update(values.float().numpy())
    return found


def make_site(
    student: Sequence[Tensor], targets: Sequence[PackedTargets], grids: Sequence[Grid | None] | None = None
) -> Site:
    """Where a term is used; a student's grid is the column's where none is given."""
    if grids is None:
        grids = [(each.column.grid[0], each.column.grid[1]) if each.column.grid else None for each in targets]
    shapes = [TokenShape(tokens.shape[1], tokens.shape[2], grid) for tokens, grid in zip(student, grids, strict=True)]
    by_name = {each.column.name: each for each in targets}

    def statistics(column: Column) -> TokenStatistics:
        values = by_name[column.name].decode()
        return statistics_of(values if values.dim() == 3 else values.unsqueeze(1))

    return Site(shapes, [each.column for each in targets], statistics)


def make_modules(term: Term, student: Sequence[Tensor], targets: Sequence[PackedTargets], **site: Any) -> Any:
    """A term's modules, the same weights every time."""
    torch.manual_seed(0)
    return term.modules(make_site(student, targets, **site))


def apply(term: Term, student: Sequence[Tensor], targets: Sequence[PackedTargets], modules: nn.Module | None) -> Tensor:
    """A term's loss of these tokens and targets."""
    count = len(student[0])
    images = torch.zeros(count, 3, 16, 16)
    inputs = Inputs(torch.zeros(count, 3), torch.zeros(count, dtype=torch.int64), student, targets, images)
    return term(inputs, modules)


def loss_of(term: Term, student: Tensor, targets: PackedTargets, **site: Any) -> Tensor:
    """A term's loss of one pair, with modules of its own, without gradient."""
    return apply(term, [student], [targets], make_modules(term, [student], [targets], **site)).detach()


def check_packed_targets(term: Term, student: Tensor, values: Tensor, grid: Grid) -> None:
    """Targets in any codec give the loss that their decoded values give."""
    for codec in ("fp16", "bf16", "int8"):
        targets = pack(values, grid, codec=codec)
        found, expected = loss_of(term, student, targets), loss_of(term, student, decoded(targets))
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
        assert not torch.equal(found, loss_of(term, student, pack(values, grid))), codec


def check_autocast(term: Term, student: Tensor, values: Tensor, grid: Grid, *, rtol: float) -> None:
    """Under bf16 autocast, with tokens in bf16, the loss is finite, fp32 and near the one in fp32."""
    targets = pack(values, grid, codec="fp16")
    modules = make_modules(term, [student], [targets])
    plain = apply(term, [student], [targets], modules)
    rough = student.bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = apply(term, [rough], [targets], modules)
    found.backward()
    assert found.dtype == torch.float32
    assert rough.grad is not None and rough.grad.isfinite().all() and rough.grad.abs().sum() > 0
    torch.testing.assert_close(found, plain, rtol=rtol, atol=0)


def check_accumulation(term: Term, student: Tensor, values: Tensor, grid: Grid) -> None:
    """The loss of a batch is the mean of those of its halves, and so is its gradient."""
    targets = pack(values, grid)
    modules = make_modules(term, [student], [targets])
    half = len(student) // 2

    def gradient(*parts: slice) -> tuple[Tensor, Tensor]:
        leaf = student.clone().requires_grad_()
        losses = [apply(term, [leaf[part]], [targets.rows(part)], modules) for part in parts]
        loss = torch.stack(losses).mean()
        loss.backward()
        assert leaf.grad is not None
        return loss.detach(), leaf.grad

    whole, pieces = gradient(slice(None)), gradient(slice(half), slice(half, None))
    for found, expected in zip(pieces, whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)


def train_terms(cache: Path, folder: Path, *terms: Term, **changes: Any) -> list[dict[str, Any]]:
    """Metrics of the steps of a short run: a ViT of width 12, ten steps in each of three epochs."""
    settings: dict[str, Any] = {
        "student": "vit_tiny_patch16_224",
        "student_kwargs": STUDENT_KWARGS,
        "epochs": 3,
        "batch_size": 4,
        "log_every": 1,
        "optimizer": OptimizerConfig(lr=3e-3),
        "data": DataConfig(views_per_sample=2, num_threads=1),
        **changes,
    }
    train(cache, folder, RunConfig(method=Method(name="test", terms=terms), **settings))
    return read_metrics(folder, "step")


def check_training(cache: Path, folder: Path, term: Term, *, factor: float, **changes: Any) -> list[dict[str, Any]]:
    """A term's loss in the last ten steps is below this fraction of that in the first ten. Returns: the steps."""
    steps = train_terms(cache, folder, term, **changes)
    first, last = (sum(step[term.name] for step in part) / 10 for part in (steps[:10], steps[-10:]))
    assert last < factor * first, (first, last)
    return steps
