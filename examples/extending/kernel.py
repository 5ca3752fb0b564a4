"""Add a Triton kernel: python examples/extending/kernel.py, which compares it with torch and with the exact result.

Without a GPU run it with TRITON_INTERPRET=1. In this folder `python -m kdcache_kernels.lint kernel` compiles it for a
GPU that is not there, and refuses spills and shared memory that does not fit. Inside the repository it is a file of
kernels/kdcache_kernels/device and a line in kernels.py beside it; `tune` then finds its settings for a card.
"""

from collections.abc import Callable, Iterator, Mapping

import torch
import triton
import triton.language as tl
from kdcache_kernels.device.case import Case
from kdcache_kernels.device.kernel import Kernel
from kdcache_kernels.device.launching import num_blocks, power_of_two, run
from torch import Tensor


def token_energy_torch(tokens: Tensor) -> Tensor:
    """Mean square of each token (N, C) in float32, (N,): what the kernel computes, in plain torch, for every CPU."""
    return tokens.float().square().mean(-1)


@triton.jit
def token_energy(tokens, energy, num_tokens, WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr):
    """ROWS tokens of WIDTH <= BLOCK values a program; every value is read once."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    inside = (row < num_tokens)[:, None] & (column < WIDTH)[None, :]
    # Offsets of large batches do not fit into 32 bits.
    start = row.to(tl.int64)[:, None] * WIDTH
    x = tl.load(tokens + start + column[None, :], mask=inside, other=0.0).to(tl.float32)
    tl.store(energy + row, tl.sum(x * x, 1) / WIDTH, mask=row < num_tokens)


def launch(tokens: Tensor, energy: Tensor, *, elements: int, num_warps: int) -> None:
    """Fill energy (N,) for contiguous tokens (N, C), about so many values in one program."""
    num_tokens, width = tokens.shape
    block = power_of_two(width)
    rows = max(1, elements // block)
    grid = (num_blocks(num_tokens, rows),)
    constants = {"WIDTH": width, "BLOCK": block, "ROWS": rows}
    run(token_energy, grid, tokens, energy, num_tokens, **constants, num_warps=num_warps, num_stages=1)


def candidates(width: int) -> list[dict[str, int]]:
    """Settings for `tune`, best guess first."""
    return [{"elements": 2048, "num_warps": 2}, {"elements": 4096, "num_warps": 4}]


def case(width: int, settings: Mapping[str, int]) -> list[Case]:
    """What the lint compiles of one setting."""
    block = power_of_two(width)
    return [
        Case(
            name=f"token_energy D {width}",
            kernel=token_energy,
            types={"tokens": "*bf16", "energy": "*fp32", "num_tokens": "i32"},
            constants={"WIDTH": width, "BLOCK": block, "ROWS": max(1, settings["elements"] // block)},
            num_warps=settings["num_warps"],
            num_stages=1,
            ragged=frozenset({"num_tokens"}),
            has_products=False,
        )
    ]


def cases() -> Iterator[Case]:
    """The widths that matter."""
    for width in (192, 768):
        yield from case(width, candidates(width)[0])


def timing(width: int, settings: Mapping[str, int], device: torch.device) -> Callable[[], None]:
    """A launch worth timing."""
    tokens = torch.randn(256 * 196, width, device=device, dtype=torch.bfloat16)
    energy = torch.empty(len(tokens), device=device)
    return lambda: launch(tokens, energy, **settings)


KERNEL = Kernel(
    name="token_energy",
    launch=launch,
    widths={"*": 768},
    candidates=candidates,
    case=case,
    cases=cases,
    timing=timing,
)


def main() -> None:
    """Compare with the exact result: the kernel may lose no more than twice what torch loses."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for num_tokens, width in ((8, 192), (7, 77)):
        tokens = torch.randn(num_tokens, width, device=device)
        # NaN first, so that a token which the kernel forgets shows.
        energy = torch.full((num_tokens,), float("nan"), device=device)
        launch(tokens, energy, **candidates(width)[0])
        exact = tokens.double().square().mean(-1)
        ours, torchs = ((each - exact).abs().max().item() for each in (energy, token_energy_torch(tokens)))
        if not ours <= 2 * torchs + 1e-7:
            raise SystemExit(f"({num_tokens}, {width}): off by {ours:.1e}, torch by {torchs:.1e}")
        print(f"({num_tokens}, {width}): off by {ours:.1e}, torch by {torchs:.1e}")


if __name__ == "__main__":
    main()
