"""GPUs whose times are predicted, and their rates."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU whose times are predicted.

    Args:
        name: As its maker has it.
        multiprocessors, clock_ghz: Number, and clock under load.
        memory_gb_s, tflop_s: Of its memory, and of products of 16-bit matrices with float32 sums.
        shared_bytes: Of a multiprocessor.
        source: ``measured`` or ``data sheet``.
    """

    name: str
    multiprocessors: int
    clock_ghz: float
    memory_gb_s: float
    tflop_s: float
    shared_bytes: int
    source: str

    @property
    def cache_gb_s(self) -> float:
        """From the second-level cache to all multiprocessors: 31 bytes a clock each, as fitted on the H100."""
        return 31 * self.multiprocessors * self.clock_ghz


GPUS = {
    "sm_80": Gpu(
        name="A100-SXM4-80GB", multiprocessors=108, clock_ghz=1.41, memory_gb_s=2039, tflop_s=312,
        shared_bytes=164 * 1024, source="data sheet",
    ),
    "sm_89": Gpu(
        name="L40S", multiprocessors=142, clock_ghz=2.52, memory_gb_s=864, tflop_s=362,
        shared_bytes=100 * 1024, source="data sheet",
    ),
    "sm_90": Gpu(
        name="H100 80GB HBM3", multiprocessors=132, clock_ghz=1.70, memory_gb_s=3000, tflop_s=744,
        shared_bytes=228 * 1024, source="measured",
    ),
    "sm_120": Gpu(
        name="RTX 5090", multiprocessors=170, clock_ghz=2.41, memory_gb_s=1792, tflop_s=209,
        shared_bytes=100 * 1024, source="data sheet",
    ),
}  # fmt: skip
