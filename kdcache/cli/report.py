"""One HTML page with tables and plots from analyses, training runs, demos and caches.

The page is one file without scripts: it opens anywhere, offline, and can be sent to a colleague.
"""

import argparse

from kdcache.cli.parser import output_file
from kdcache.cli.places import place
from kdcache.errors import UsageError

USAGE = "FOLDER... --out FILE.html [--title TEXT]"
EXAMPLE = """examples:
  kdcache report runs/analysis runs/lift runs/widelast --out report.html
  kdcache report runs/demo runs/demo/cache --out demo.html --title 'Handwritten digits'"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument(
        "folders",
        type=place,
        nargs="+",
        metavar="FOLDER",
        help="of an analysis, a training run (finished or not), a demo, or a cache",
    )
    parser.add_argument("--out", type=output_file(".html", ".htm"), required=True, metavar="FILE.html", help="the page")
    parser.add_argument("--title", help="of the page (default: what it is about)")


def run(arguments: argparse.Namespace) -> int:
    """Write the page."""
    if arguments.out.is_dir():
        raise UsageError(f"--out {arguments.out}: is a folder; give the name of a file, such as report.html")

    from kdcache.cli.text import counted, size_text
    from kdcache.durable import make_folder, write_file
    from kdcache.reports.inputs import read_inputs
    from kdcache.reports.page import render_page

    inputs = read_inputs(arguments.folders)
    analyses = f"{len(inputs.analyses)} {'analysis' if len(inputs.analyses) == 1 else 'analyses'}"
    runs, caches = counted(len(inputs.runs), "run"), counted(len(inputs.caches), "cache")
    counts = ", ".join(each for each in (analyses, runs, caches) if not each.startswith("0 "))
    labels = [each.label for each in (*inputs.analyses, *inputs.runs, *inputs.caches)]
    title = arguments.title or (f"{labels[0]}: report of kdcache" if len(labels) == 1 else f"kdcache: {counts}")
    page = render_page(inputs, title).encode("utf-8", "replace")
    make_folder(arguments.out.parent)
    write_file(arguments.out, page)
    print(f"report: {counts}, {size_text(len(page))}")
    print(arguments.out)
    return 0
