"""A finished student as plain files: model.safetensors, config.json in timm's format, and a model card.

Plain timm loads them offline, timm.create_model("local-dir:DIR", pretrained=True), and the outputs are those of the
run's student to the bit; a student of lift, widelast or low-rank loads after `import kdcache.students.register`, a
weight copy has its adapters merged and is a plain model. The card states what the run recorded, and "unknown" for the
rest.
"""

import argparse
from dataclasses import asdict

from kdcache.cli.places import local_path
from kdcache.cli.text import WEIGHTS_HELP, print_json

USAGE = "RUN --out DIR [options]"
EXAMPLE = """examples:
  kdcache export runs/lift --out exports/lift
  kdcache export runs/lift --weights best --onnx --out exports/lift-best"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("run", type=local_path, metavar="RUN", help="the folder of a finished run")
    parser.add_argument("--out", type=local_path, required=True, metavar="DIR", help="a folder for this export alone")
    parser.add_argument("--weights", default="last", metavar="W", help=WEIGHTS_HELP)
    parser.add_argument("--onnx", action="store_true", help="write model.onnx too (needs the extra onnx)")
    parser.add_argument("--replace", action="store_true", help="replace the export that is there")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Export."""
    from kdcache.export import export_student

    done = export_student(
        arguments.run, arguments.out, weights=arguments.weights, onnx=arguments.onnx, replace=arguments.replace
    )
    if arguments.json:
        print_json({**asdict(done), "folder": str(done.folder)})
    else:
        print(f"{done.folder}: {', '.join(done.files)}; {done.num_parameters / 1e6:.2f} M parameters")
        registers = "import kdcache.students.register; " if done.architecture.startswith("kdcache_") else ""
        print(f'next: {registers}timm.create_model("local-dir:{done.folder}", pretrained=True)')
    return 0
