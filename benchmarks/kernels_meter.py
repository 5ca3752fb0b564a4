"""Times, memory and launches of one function on a GPU; on a CPU enough of it to run at toy size."""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import spread

_TOY_REPEATS = 3
_HOST_ROUNDS, _HOST_CALLS = 7, 8


@dataclass
class Meter:
    """What measures, and how long it may.

    Args:
        device: Where everything runs; times on a CPU only show that the benchmark works.
        deadline: `time.monotonic` after which no new measurement begins.
        share: (i, n): this process is the i-th of n, and takes every n-th case.
        only_compiles: Whether its share of the cases is run once, so that all is compiled, and nothing is measured.
        by: Beginnings of names of what computes; empty for all.
    """

    device: torch.device
    deadline: float
    share: tuple[int, int] = (0, 1)
    only_compiles: bool = False
    by: tuple[str, ...] = ()
    _num_seen: int = 0

    @property
    def is_toy(self) -> bool:
        """Whether this is not a GPU."""
        return self.device.type != "cuda"

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function through torch.compile; at toy size without making code of it."""
        return torch.compile(function, dynamic=False, backend="aot_eager" if self.is_toy else "inductor")

    def takes(self, number: int) -> bool:
        """Whether the case of this number is in this process's share."""
        return number % self.share[1] == self.share[0]

    def wants(self, variant: str) -> bool:
        """Whether what is computed this way is to be measured."""
        return not self.by or variant.startswith(self.by)

    def has_time(self, seconds: float = 20.0) -> bool:
        """Whether another measurement fits."""
        return time.monotonic() + seconds < self.deadline

    def measure(self, run: Callable[[], object], *, num_ms: int = 100) -> dict[str, Any]:
        """Milliseconds (caches flushed before each repeat), memory, and kernels.

        Args:
            run: What to measure; called many times.
            num_ms: Time to spend on repeats.

        Returns: ``ms``; ``host_us``, until a call returns while the GPU is behind; ``peak_mb``, most memory beside what
            was there before and what stays (outputs, gradients); ``launches`` and ``kernel_us``, number and summed time
            of the kernels of one call, without gaps between.
        """
        if self.only_compiles:
            self._num_seen += 1
            if self.takes(self._num_seen):
                run()
            return {"ms": spread([0.0]), "host_us": None, "peak_mb": None, "launches": None, "kernel_us": None}
        run()
        times = self._times_ms(run, num_ms)
        host_us = self._host_us(run)
        return {"ms": spread(times), "host_us": host_us, "peak_mb": self._peak_mb(run), **self._kernels(run)}

    def _times_ms(self, run: Callable[[], object], num_ms: int = 100) -> list[float]:
        if self.is_toy:
            times = []
            for _ in range(_TOY_REPEATS):
                started = time.perf_counter()
                run()
                times.append((time.perf_counter() - started) * 1e3)
            return times
        from triton.testing import do_bench

        times: Any = do_bench(run, warmup=25, rep=num_ms, return_mode="all")
        return list(times)

    def _host_us(self, run: Callable[[], object]) -> float | None:
        if self.is_toy:
            return None
        times = []
        for _ in range(_HOST_ROUNDS):
            torch.cuda.synchronize()
            started = time.perf_counter()
            # So few that they fit the queue of launches, which holds 1,024.
            for _ in range(_HOST_CALLS):
                run()
            times.append((time.perf_counter() - started) / _HOST_CALLS * 1e6)
        torch.cuda.synchronize()
        return statistics.median(times)

    def _peak_mb(self, run: Callable[[], object]) -> float | None:
        if self.is_toy:
            return None
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        # What stays from the call before stays from this one too, so what it leaves behind is what was there.
        run()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - torch.cuda.memory_allocated()) / 1e6

    def _kernels(self, run: Callable[[], object]) -> dict[str, float | None]:
        if self.is_toy:
            return {"launches": None, "kernel_us": None}
        from torch.autograd import DeviceType
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            run()
            torch.cuda.synchronize()
        on_device = [event for event in profiler.events() or () if event.device_type == DeviceType.CUDA]
        return {"launches": len(on_device), "kernel_us": sum(event.time_range.elapsed_us() for event in on_device)}


def ceilings(meter: Meter) -> dict[str, float]:
    """Copy bandwidth in GB/s (bytes read and written) and bf16 product rate in TFLOP/s of this device."""
    elements, side = (2**14, 64) if meter.is_toy else (2**29, 8192)
    source = torch.randn(elements, device=meter.device).bfloat16()
    target = torch.empty_like(source)
    copy_ms = statistics.median(meter._times_ms(lambda: target.copy_(source)))
    left, right = (torch.randn(side, side, device=meter.device).bfloat16() for _ in "ab")
    product_ms = statistics.median(meter._times_ms(lambda: left @ right))
    return {"copy_gb_s": 4 * elements / copy_ms / 1e6, "bf16_tflop_s": 2 * side**3 / product_ms / 1e9}


def guarded(name: str, errors: list[dict[str, str]], run: Callable[[], Any]) -> Any:
    """The result of one measurement, or None and a note: one failure must not cost the rest of a lent GPU's minutes."""
    try:
        return run()
    except Exception as error:
        errors.append({"what": name, "error": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"})
        print(f"FAILED {name}: {errors[-1]['error'][:200]}", flush=True)
        return None


def read_predictions() -> dict[str, Any]:
    """Floors and predicted times that were written down before anything ran on a GPU."""
    return json.loads((Path(__file__).parent / "kernels_predictions.json").read_text())
