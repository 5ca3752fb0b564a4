"""Reads what matters out of compiled kernels: Triton's GPU dialect, PTX, machine code and the assembler's log."""

import re
from collections import Counter
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
