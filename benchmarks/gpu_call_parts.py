"""What waits for a GPU: the parts of the prepared call, with their minutes and a toy size of each."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """One command.

    Args:
        name: Of its results.
        minutes: It ends after these.
        program: ``benchmarks``, ``kdcache`` or ``pytest``, run as a module.
        words: Its command line; ``{out}`` stands for the folder of its results.
        toy: The command line at toy size; None for a part that has none.
        needs: A path without which it is passed over.
    """

    name: str
    minutes: float
    program: str
    words: Sequence[str]
    toy: Sequence[str] | None = None
    needs: str | None = None


def _words(text: str) -> list[str]:
    return text.split()


_PASS = "teacher_pass --teacher cait_s24_224 --limit 1792 --views 4 --batch-size 128 --repeats 2"
_TINY_PASS = "teacher_pass --teacher test_vit --limit 4 --views 1 --batch-size 2 --repeats 1"
# In order of worth: what was built last and never ran on a GPU comes first.
PARTS = [
    Part(
        "check",
        1.5,
        "benchmarks",
        _words("kernels --only check --workers 12 --minutes 1.3 --out {out}/kernels_check.json"),
        _words("kernels --only check --workers 2 --toy --out {out}/kernels_check.json"),
    ),
    Part(
        "tests",
        1.5,
        "pytest",
        _words("-q -n 12 --dist load -p no:benchmark -p no:cacheprovider -m gpu tests/integration/test_gpu.py"),
        _words("-q -n 0 -p no:cacheprovider -m gpu tests/integration/test_gpu.py"),
    ),
    Part(
        "statistics",
        2,
        "benchmarks",
        _words("kernels --only statistics,share --workers 12 --minutes 1.8 --out {out}/kernels_statistics.json"),
        _words("kernels --only statistics,share --toy --out {out}/kernels_statistics.json"),
    ),
    *(
        Part(
            f"teacher_pass_{codec}",
            1.0,
            "benchmarks",
            _words(f"{_PASS} --codec {codec} --out {{out}}/teacher_pass_{codec}.json"),
            _words(f"{_TINY_PASS} --codec {codec} --out {{out}}/teacher_pass_{codec}.json"),
        )
        for codec in ("int8", "fp16")
    ),
    Part(
        "projection",
        2.5,
        "benchmarks",
        _words("kernels --only projection --workers 12 --minutes 2.3 --out {out}/kernels_projection.json"),
        _words("kernels --only projection --toy --out {out}/kernels_projection.json"),
    ),
    Part(
        "online",
        1.5,
        "benchmarks",
        _words(
            "online --teacher vit_base_patch16_224 --image-size 224 --limit 1792 --batch-size 256 --rounds 4 "
            "--out {out}/online.json"
        ),
        _words(
            "online --teacher test_vit --student test_vit --image-size 160 --limit 8 --batch-size 2 --warm-up 1 "
            "--rounds 1 --out {out}/online.json"
        ),
    ),
    Part(
        "demo",
        2,
        "kdcache",
        _words("demo --epochs 6 --seeds 1 --teacher-epochs 8 --out {out}/demo"),
        _words("demo --epochs 1 --seeds 1 --teacher-epochs 1 --out {out}/demo"),
    ),
    Part(
        "streaming",
        2.5,
        "benchmarks",
        [
            *_words("streaming --workloads A,B --repeats 5 --out {out}/streaming.json --loaders"),
            "kdcache;kdcache without extension;np.memmap",
        ],
        [
            *_words("streaming --toy --workloads A,B --repeats 2 --seconds 0.01 --cold 1 --out {out}/streaming.json"),
            *_words("--loaders kdcache;np.memmap"),
        ],
    ),
    Part(
        "accuracy",
        9,
        "benchmarks",
        _words("accuracy --grid full --data .whl/cifar10 --work /tmp/kdcache-accuracy --out {out}/accuracy.json"),
        needs=".whl/cifar10",
    ),
]
