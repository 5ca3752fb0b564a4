"""``python -m benchmarks NAME``: measure, print a table, write a JSON file."""

import argparse
import importlib
import sys

BENCHMARKS = {
    "accuracy": "what the cache is worth: students of every method on CIFAR-10, over seeds, with their controls",
    "teacher_pass": "what the cache costs on top of the bare teacher: bare forwards against whole passes",
    "streaming": "how fast kdcache and every other loader read the same records, beside memcpy",
    "online": "what a training step costs with the teacher in the loop, and from its cache",
    "replay": "how fast views are replayed from a cache's own images, by decoder and by thread",
    "scale": "what opening, ordering, resuming and dividing a cache of 100 million images cost",
    "parallel": "what a rank holds of a student: all of its weights (DDP), or its part of them (FSDP2)",
    "analysis": "how long each analysis of a cache takes, and in how much memory",
    "codecs": "what each codec of tokens costs in bytes and time, and what it loses, beside outliers too",
    "kernels_plain": "the projected losses in plain torch on a CPU, in turns with eager torch: time and memory",
    "gpu_call": "everything that waits for a GPU, in one call of seven minutes",
    "kernels": "the Triton kernels on a GPU: right, and how fast beside the floor and what else a user could run",
}


def main() -> int:
    """Run one benchmark."""
    names = "\n".join(f"  {name}: {what}" for name, what in BENCHMARKS.items())
    if len(sys.argv) < 2 or sys.argv[1] not in BENCHMARKS:
        print(f"usage: python -m benchmarks NAME [options]\n{names}", file=sys.stderr)
        return 2
    module = importlib.import_module(f"benchmarks.{sys.argv[1]}")
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks {sys.argv[1]}", description=module.__doc__)
    module.add_arguments(parser)
    return module.run(parser.parse_args(sys.argv[2:]))


if __name__ == "__main__":
    sys.exit(main())
