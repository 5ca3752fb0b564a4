"""The papers' analyses of a teacher's or a student's tokens: ranks, token spectra, dynamics over depth, layer choice.

Of a finished cache, or of a model and images. Writes analysis.json (numbers) and curves.h5 (curves), which
`kdcache report` shows.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcache.cli.data_flags import add_data
from kdcache.cli.places import PLACE_HELP, local_path, place
from kdcache.cli.progress import ProgressReporter
from kdcache.cli.text import MODEL_HELP, counted
from kdcache.config import parse_pairs
from kdcache.errors import UsageError

if TYPE_CHECKING:
    import torch

    from kdcache.analysis.diagnosis import StudentShape
    from kdcache.analysis.result import Analysis, BranchSpectrum, Checkpoint, Curves, EffectiveRank
    from kdcache.analysis.run import AnalyzeConfig
    from kdcache.analysis.tokens import TokenSource

USAGE = "(CACHE | --model NAME | --run RUN) --out DIR [options]"
EXAMPLE = """examples:
  kdcache analyze caches/inet --student deit_tiny_patch16_224 --out runs/analysis
  kdcache analyze caches/inet --images 0 --out runs/quick         from stored statistics alone
  kdcache analyze --model cait_s24_224 --weights hub --data imagenet/val --images 1000 --out runs/cait
  kdcache analyze --run runs/lift --data digits:test --out runs/lift-dynamics
  kdcache report runs/analysis --out report.html"""

_ALL = "all"
TAP_HELP = "of a model: blocks.N/patch, or change/tokens of a lifted student; again for more (all)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    what = parser.add_argument_group("what is analysed")
    what.add_argument("cache", type=place, nargs="?", metavar="CACHE", help=f"a finished cache: {PLACE_HELP}")
    what.add_argument(
        "--column", action="append", metavar="NAME", help="of the cache; again for more (one for each tap)"
    )
    what.add_argument("--group", metavar="NAME", help="of the cache (default: each, in a folder of its own if several)")
    what.add_argument("--model", metavar="NAME", help=f"{MODEL_HELP}, instead of a cache")
    what.add_argument(
        "--weights",
        action="extend",
        nargs="+",
        metavar="W",
        help="of --model: hub, random or files; several are compared over training",
    )
    what.add_argument(
        "--model-kwargs", action="extend", nargs="+", metavar="K=V", default=[], help="further arguments of the model"
    )
    what.add_argument("--image-size", type=int, metavar="S", help="side of the view (the model's)")
    what.add_argument("--run", type=local_path, metavar="RUN", help="student of a finished run, and its checkpoints")
    what.add_argument("--tap", action="append", metavar="TAP", help=TAP_HELP)
    add_data(what, "--data", help="images of --model or --run; of a cache that refers to its images (for pictures)")
    how = parser.add_argument_group("how")
    how.add_argument(
        "--images",
        default="10000",
        metavar="N",
        help="images whose tokens are read, evenly spaced; all; 0 for none (10000)",
    )
    how.add_argument("--batch-size", type=int, default=32, metavar="B", help="images at a time (32)")
    how.add_argument(
        "--permutations", type=int, default=100, metavar="P", help="orders of the channels to compare (100)"
    )
    how.add_argument("--seed", type=int, default=2026, help="of those orders (2026)")
    how.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    more = parser.add_argument_group("also")
    more.add_argument("--student", metavar="NAME", help="diagnose for this timm model")
    more.add_argument(
        "--student-kwargs", action="extend", nargs="+", metavar="K=V", default=[], help="its further arguments"
    )
    more.add_argument(
        "--rank-table", type=local_path, metavar="FILE.csv", help="rank,accuracy: effective rank region and knee"
    )
    more.add_argument("--teacher-accuracy", type=float, metavar="A", help="for --rank-table, in the table's unit")
    parser.add_argument(
        "--out", type=local_path, required=True, metavar="DIR", help="folder for analysis.json and curves.h5"
    )
    parser.add_argument("--json", action="store_true", help="print analysis.json too, instead of a table")


def run(arguments: argparse.Namespace) -> int:
    """Analyse."""
    _check(arguments)

    from kdcache.analysis.folder import RESULT, write_analysis
    from kdcache.analysis.run import AnalyzeConfig
    from kdcache.distributed.env import worker_env
    from kdcache.distributed.process_group import choose_device
    from kdcache.durable import make_folder

    effective_rank = _effective_rank(arguments)
    try:
        config = AnalyzeConfig(
            permutations=arguments.permutations,
            seed=arguments.seed,
            student=_student(arguments),
            pictures=_num_images(arguments) > 0,
        )
    except ValueError as error:
        raise UsageError(str(error)) from None
    device = choose_device(arguments.device, worker_env())
    for group, out in _outputs(arguments):
        # A folder that cannot be written to is found before anything is spent.
        make_folder(out)
        analysis, curves = _analyze(arguments, group, config, device, effective_rank)
        write_analysis(out, analysis, curves)
        if arguments.json:
            print((out / RESULT).read_text(), end="")
        else:
            _print(out, analysis)
    return 0


def _outputs(arguments: argparse.Namespace) -> list[tuple[str | None, Path]]:
    """What is analysed one after the other, and where to: each group of a cache by itself."""
    if arguments.cache is None or arguments.column or arguments.group is not None:
        return [(arguments.group, arguments.out)]
    from kdcache.cache.cache import open_cache

    groups = list(dict.fromkeys(column.group for column in open_cache(arguments.cache).columns))
    if len(groups) < 2:
        return [(None, arguments.out)]
    return [(group, arguments.out / group) for group in groups]


def _analyze(
    arguments: argparse.Namespace,
    group: str | None,
    config: "AnalyzeConfig",
    device: "torch.device",
    effective_rank: "EffectiveRank | None",
) -> "tuple[Analysis, Curves]":
    import msgspec

    from kdcache.analysis.run import analyze

    with ProgressReporter("analyze", "images", visible=not arguments.json) as reporter:
        if arguments.cache is not None:
            source, left_out = _cache_source(arguments, group, device)
            checkpoints: list[Checkpoint] = []
            branches: list[BranchSpectrum] = []
        else:
            from kdcache.cli.analyze_model import model_source

            source, checkpoints, branches = model_source(arguments, device, _num_images(arguments), reporter)
            left_out = []
        analysis, curves = analyze(
            source,
            config,
            device=device,
            left_out=left_out,
            effective_rank=effective_rank,
            checkpoints=checkpoints,
            asked=_asked(arguments),
            on_progress=reporter.update,
        )
        return msgspec.structs.replace(analysis, branches=branches), curves


def _asked(arguments: argparse.Namespace) -> dict[str, Any]:
    """Every flag that was given or has a default, as it can be written as JSON."""
    given = {name: value for name, value in vars(arguments).items() if value not in (None, []) and name != "json"}
    return {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}


def _student(arguments: argparse.Namespace) -> "StudentShape | None":
    if arguments.student is None:
        return None
    from kdcache.analysis.diagnosis import student_shape
    from kdcache.models import resolve_name

    named = resolve_name(arguments.student).model
    return student_shape(named.name, {**named.kwargs, **parse_pairs(arguments.student_kwargs, "--student-kwargs")})


def _check(arguments: argparse.Namespace) -> None:
    chosen = [name for name in ("cache", "model", "run") if getattr(arguments, name) is not None]
    if len(chosen) != 1:
        raise UsageError("give one of CACHE, --model NAME or --run RUN")
    for flag, belongs in (
        ("column", ["cache"]),
        ("group", ["cache"]),
        ("weights", ["model"]),
        ("model_kwargs", ["model"]),
        ("image_size", ["model"]),
        ("tap", ["model", "run"]),
    ):
        if getattr(arguments, flag) not in (None, []) and chosen[0] not in belongs:
            name = flag.replace("_", "-")
            raise UsageError(
                f"--{name} goes with {' or '.join('CACHE' if b == 'cache' else '--' + b for b in belongs)}"
            )
    if chosen[0] != "cache" and arguments.data is None:
        raise UsageError(f"--{chosen[0]} needs images: --data DATA")
    if (arguments.rank_table is None) != (arguments.teacher_accuracy is None):
        raise UsageError("--rank-table and --teacher-accuracy go together")
    if arguments.student_kwargs and arguments.student is None:
        raise UsageError("--student-kwargs goes with --student")
    for flag in ("batch_size", "image_size"):
        value = getattr(arguments, flag)
        if value is not None and value < 1:
            raise UsageError(f"--{flag.replace('_', '-')} must be at least 1, got {value}")
    if _num_images(arguments) == 0 and chosen[0] != "cache":
        raise UsageError("--images 0 takes stored statistics, which only a cache has")


def _num_images(arguments: argparse.Namespace) -> int:
    text: str = arguments.images
    if text == _ALL:
        return 2**62
    if not text.isdecimal():
        raise UsageError(f"--images {text}: wanted a number, or {_ALL}")
    return int(text)


def _cache_source(
    arguments: argparse.Namespace, group: str | None, device: "torch.device"
) -> "tuple[TokenSource, list[str]]":
    from kdcache.analysis.cache_tokens import CacheTokens, choose_columns
    from kdcache.cache.cache import open_cache
    from kdcache.images import open_again

    cache = open_cache(arguments.cache)
    columns, left_out = choose_columns(cache, arguments.column, group)
    tokens = CacheTokens(
        cache,
        columns,
        num_images=_num_images(arguments),
        batch_size=arguments.batch_size,
        device=device,
        source=open_again(arguments.data, cache.manifest.fingerprint.source.rules),
    )
    return tokens, left_out


def _effective_rank(arguments: argparse.Namespace) -> "EffectiveRank | None":
    if arguments.rank_table is None:
        return None
    from kdcache.analysis.effective_rank import effective_rank, read_rank_table

    try:
        return effective_rank(*read_rank_table(arguments.rank_table), arguments.teacher_accuracy)
    except ValueError as error:
        raise UsageError(f"{arguments.rank_table}: {error}") from None


def _print(out: Path, analysis: "Analysis") -> None:
    from kdcache.reports.tables import text_table

    source = analysis.source
    print(f"{source.path}: {source.teacher}, tokens of {source.num_read} of {counted(source.num_images, 'image')}")
    size = source.view.get("size")
    print(f"views     {counted(source.num_views, 'view')} of each, recipe {source.view_recipe}, {size} px")
    headings = ["layer", "N x C", "one image 99 %", "shared basis 99 %", "b90 (noise)", "entropy", "magnitude"]
    print("\n" + text_table(headings, [_row(layer) for layer in analysis.layers]))
    print(
        "\none image, shared basis: components explaining 99 % of the variance of an image (in brackets: of its "
        "uncentred energy),\nin its own basis and in one for all; 99th percentile over images. b90: bins for 90 % of "
        "the spectral energy, and those\nof white noise. entropy in bits"
    )
    if analysis.branches:
        from kdcache.analysis.branches import branches_text

        print(f"\n{branches_text(analysis.branches)}")
    for reason in analysis.left_out:
        print(f"left out  {reason}")
    if analysis.diagnosis is not None:
        print(f"\n{analysis.diagnosis.paragraph}")
    times = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in analysis.seconds.items())
    print(f"\ntimes     {times}")
    print(f"{out}: analysis.json, curves.h5\nnext: kdcache report {out} --out report.html")


def _row(layer: Any) -> list[str]:
    ranks, dynamics = layer.ranks, layer.dynamics
    own = "-" if ranks is None else _dims(ranks.per_image_centred, ranks.per_image)
    shared = "-" if ranks is None else _dims(ranks.shared_centred, ranks.shared)
    return [
        layer.name,
        f"{layer.num_tokens} x {layer.num_channels}",
        own,
        shared,
        "-" if layer.sep is None else f"{layer.sep.full.bins['90']} ({layer.sep.full.white_noise['90']})",
        "-" if dynamics is None else f"{dynamics.entropy_bits:.2f}",
        "-" if dynamics is None else f"{dynamics.magnitude:.3g}",
    ]


def _dims(centred: Any, uncentred: Any) -> str:
    first, second = ("-" if each is None else f"{each['99'].p99:.0f}" for each in (centred, uncentred))
    return f"{first} ({second})"
