"""Reads what matters out of compiled kernels: Triton's GPU dialect, PTX, machine code and the assembler's log."""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any


def read_nvidia(ptx: str, log: str, code: str) -> dict[str, Any]:
    """Fields of `Resources` from PTX, the assembler's log and the disassembly."""
    in_registers = re.search(r"wgmma\.mma_async[^{;]*\{[^}]*\},\s*\{", ptx) is not None
    waits = [int(count) for count in re.findall(r"wgmma\.wait_group\.sync\.aligned\s+(\d+)", ptx)]
    return {
        "registers": _number(r"Used (\d+) registers", log),
        "spill_bytes": _number(r"(\d+) bytes spill stores", log) + _number(r"(\d+) bytes spill loads", log),
        "stack_bytes": _number(r"(\d+) bytes stack frame", log),
        "matrix_instructions": dict(sorted(Counter(re.findall(r"\b((?:UTC)?[A-Z]G?MMA)\b", code)).items())),
        "wide_loads": len(re.findall(r"\b(?:LDG|LDGSTS)\.E\.(?:\w+\.)*(?:128|256)\b|\bUTMALDG\b", code)),
        "small_loads": len(re.findall(r"\bLDG\.E\.(?:\w+\.)*[US](?:8|16)\b", code)),
        "serialised": "Potential Performance Loss" in log,
        # wait_group 0 waits for everything: then nothing runs beside the product.
        "pipelined_register_operand": in_registers and any(waits),
    }


def refilled_while_read(ttgir: str, num_stages: int) -> bool:
    """Whether a copy may refill a buffer that an asynchronous product still reads.

    With n stages a copy runs n - 1 tiles ahead, and the products of the newest tile stay in flight where the wait
    behind them allows any pending: only n slots keep the two apart.
    """
    slots = {
        name: int(count)
        for name, count in re.findall(r"(%\S+) = ttg\.local_alloc : \(\) -> !ttg\.memdesc<(\d+)x", ttgir)
    }
    views = dict(re.findall(r"(%\S+) = ttg\.memdesc_\w+ (%[^\[\s,{]+)", ttgir))
    in_flight: set[str] = set()
    for product, wait in re.findall(
        r"warp_group_dot (%[^\n]*isAsync = true)|warp_group_dot_wait [^\n]*pendings = (\d+)", ttgir
    ):
        if product:
            in_flight.update(re.findall(r"%[^\s,]+", product)[:2])
            continue
        for operand in in_flight if int(wait) else ():
            while operand in views:
                operand = views[operand]
            if slots.get(operand, num_stages) < num_stages:
                return True
        in_flight.clear()
    return False


def read_amd(code: str) -> dict[str, Any]:
    """Fields of `Resources` from AMD's assembly, whose comments hold the counts."""
    products = len(re.findall(r"\bv_mfma_", code))
    return {
        "registers": _number(r"\.vgpr_count:\s+(\d+)", code),
        "spill_bytes": 4 * _number(r"\.vgpr_spill_count:\s+(\d+)", code),
        "stack_bytes": _number(r"\.private_segment_fixed_size:\s+(\d+)", code),
        "matrix_instructions": {"MFMA": products} if products else {},
        "wide_loads": len(re.findall(r"\b(?:global|buffer)_load_(?:lds_)?dwordx4\b", code)),
        "small_loads": len(re.findall(r"\b(?:global|buffer)_load_(?:[us]?byte|[us]?short|[ui](?:8|16))", code)),
    }


def _number(pattern: str, text: str) -> int:
    match = re.search(pattern, text)
    return int(match[1]) if match else 0


@dataclass(frozen=True, kw_only=True)
class Loop:
    """One loop in machine code, inner loops included in it.

    Args:
        instructions: Of one turn of one warp.
        barriers: How often all warps of a program wait for each other in one turn.
        products: Multiplications and additions of matrix instructions in one turn, of the threads that share one: a
            group of four warps for ``HGMMA``, else a warp.
        loaded_bytes: That one warp loads from global memory in one turn, where no lane is masked.
    """

    instructions: int
    barriers: int
    products: int
    loaded_bytes: int


def read_loops(code: str) -> tuple[list[Loop], int]:
    """Outermost loops of disassembled NVIDIA code in their order, and the number of instructions outside of them."""
    instructions, labels = _instructions(code)
    spans: list[tuple[int, int]] = []
    for at, text in enumerate(instructions):
        jump = re.search(r"\bBRA\b.*`\((\S+)\)", text)
        # A jump to itself fills the end of the code.
        if jump and labels.get(jump[1], at) < at:
            spans.append((labels[jump[1]], at + 1))
    outer = [span for span in spans if not any(_holds(other, span) for other in spans)]
    inside = sum(last - first for first, last in outer)
    return [_read_loop(instructions[first:last]) for first, last in sorted(outer)], len(instructions) - inside


def _holds(outer: tuple[int, int], inner: tuple[int, int]) -> bool:
    return outer != inner and outer[0] <= inner[0] and inner[1] <= outer[1]


def _instructions(code: str) -> tuple[list[str], dict[str, int]]:
    """Instructions, and for each label the number of the one that follows it."""
    instructions: list[str] = []
    labels: dict[str, int] = {}
    for line in code.splitlines():
        if label := re.match(r"(\.L\S+):", line):
            labels[label[1]] = len(instructions)
        elif instruction := re.match(r"\s+/\*[0-9a-f]+\*/\s+(.*);", line):
            instructions.append(instruction[1])
    return instructions, labels


def _read_loop(body: list[str]) -> Loop:
    text = "\n".join(body)
    loads = re.findall(r"\b(?:LDG|LDGSTS)\.E([.\w]*)", text)
    widths = [re.search(r"\.[US]?(8|16|64|128|256)(?:\.|$)", modifiers) for modifiers in loads]
    return Loop(
        instructions=len(body),
        barriers=len(re.findall(r"\bBAR\.SYNC", text)),
        products=sum(2 * rows * columns * depth for rows, columns, depth in _shapes(text)),
        loaded_bytes=sum(4 * int(width[1] if width else 32) for width in widths),
    )


def _shapes(text: str) -> list[tuple[int, int, int]]:
    """Rows, columns and depth of every matrix instruction whose shape its name holds."""
    wide = [(int(m), int(n), int(k)) for m, n, k in re.findall(r"\b[A-Z]GMMA\.(\d+)x(\d+)x(\d+)", text)]
    # HMMA.16816 is 16 x 8 x 16, IMMA.16832 is 16 x 8 x 32.
    narrow = [(int(m), int(n), int(k)) for m, n, k in re.findall(r"\b[HIQ]MMA\.(16)(8)(4|8|16|32|64)\b", text)]
    return wide + narrow
