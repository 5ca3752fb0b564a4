"""One student for each rank of its linear layers, from sweep to knee: accuracies, effective rank, an analysis.

All flags are those of `kdcache train`; the student is the teacher's own architecture and begins with its weights.
Running the same command again resumes. The analysis holds accuracy over rank, the region of 85 to 95 % of the teacher's
accuracy and the knee (arXiv:2512.00792), and `kdcache report` draws them.
"""

import argparse
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcache.cli import train as train_verb
from kdcache.cli.progress import ProgressReporter
from kdcache.cli.train_config import read_config
from kdcache.config import parse_call
from kdcache.errors import Remedy, UsageError
from kdcache.methods import load_method
from kdcache.students import load_change

if TYPE_CHECKING:
    from collections.abc import Callable

    from kdcache.analysis.result import EffectiveRank
    from kdcache.cache.cache import Cache
    from kdcache.cache.column import Column

USAGE = "--ranks R,R,... --cache DIR --student NAME --student-weights W --eval-data D --out DIR [options of train]"
EXAMPLE = """example:
  kdcache sweep --ranks 2,4,8,16,32,64 --cache caches/cifar --student vit_base_patch32_224 \\
      --student-weights teacher.safetensors --eval-data cifar/test --epochs 30 --out runs/ranks"""

_TABLE = "ranks.csv"
# What a sweep sets itself, and the flag that chooses it.
_SWEPT = {"seed": "--seeds", "method.change.rank": "--ranks", "method.change.budget": "--ranks"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags: those of train, and what is swept."""
    sweep = parser.add_argument_group("sweep")
    sweep.add_argument("--ranks", required=True, metavar="R,R,...", help="three or more different ranks")
    sweep.add_argument("--seeds", type=int, default=1, metavar="N", help="runs of each rank, seeds 0 to N-1 (1)")
    sweep.add_argument(
        "--teacher-accuracy", type=float, metavar="A", help="top-1 in percent (default: that of --student-weights)"
    )
    sweep.add_argument(
        "--group", metavar="NAME", help="whose patch tokens are analysed, where several groups of the cache hold some"
    )
    train_verb.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Sweep."""
    ranks = _ranks(arguments.ranks)
    _set_rank(arguments, ranks[0])
    config = read_config(arguments)

    from msgspec import to_builtins

    from kdcache.analysis.effective_rank import effective_rank, read_rank_table
    from kdcache.cache.cache import open_cache
    from kdcache.cli.text import print_json
    from kdcache.distributed.env import worker_env
    from kdcache.train.rank_sweep import check_sweep, dense_accuracy, sweep_ranks, write_rank_table

    check_sweep(config, ranks)
    cache = open_cache(arguments.cache)
    columns, left_out = _analysed_columns(cache, arguments.group)
    out, is_main = arguments.out, worker_env().is_main
    with ProgressReporter("sweep", "steps", visible=is_main and not arguments.json) as reporter:

        def show(rank: int, seed: int, summary: dict[str, Any]) -> None:
            reporter.note(
                f"rank {rank}, seed {seed}: top-1 {summary['top1']:.2f} %, {summary['num_parameters'] / 1e6:.3g} M "
                "parameters"
            )

        accuracy = arguments.teacher_accuracy
        accuracy = dense_accuracy(arguments.cache, config) if accuracy is None else accuracy
        if not 0 < accuracy <= 100:
            raise UsageError(f"the teacher's accuracy must be above 0 and at most 100 %, got {accuracy:g}")
        reporter.note(f"teacher: top-1 {accuracy:.2f} %")
        results = sweep_ranks(
            arguments.cache,
            out,
            config,
            ranks=ranks,
            seeds=range(arguments.seeds),
            accept_versions=arguments.accept_versions,
            on_run=show,
            on_event=train_verb.show_events(reporter),
        )
    if not is_main:
        return 0
    table = out / _TABLE
    write_rank_table(table, results)
    found = effective_rank(*read_rank_table(table), accuracy)
    if columns:
        _write_analysis(out / "analysis", cache, columns, left_out, found)
    if arguments.json:
        print_json({"rank_table": str(table), "effective_rank": to_builtins(found)})
        return 0
    _print(arguments, found, columns)
    return 0


def _print(arguments: argparse.Namespace, found: "EffectiveRank", columns: "list[Column]") -> None:
    low, high, knee, knee_log = (
        "-" if each is None else f"{each:.1f}" for each in (*found.region, found.knee, found.knee_log)
    )
    print(f"85 to 95 % of the teacher's accuracy: ranks {low} to {high}; knee {knee} ({knee_log} over log rank)")
    for note in found.notes:
        print(f"note: {note}")
    out, analysis = arguments.out, arguments.out / "analysis"
    print(out / _TABLE)
    if columns:
        print(f"{analysis}: analysis.json, curves.h5, with the tokens of group {columns[0].group}")
    else:
        print(f"{arguments.cache} holds no patch tokens, so no analysis was written")
    print(f"next: kdcache report {f'{analysis} ' if columns else ''}{out}/rank-* --out {out / 'report.html'}")


def _ranks(text: str) -> list[int]:
    try:
        ranks = [int(each) for each in text.split(",")]
    except ValueError:
        raise UsageError(f"--ranks {text}: wanted numbers with commas between them, such as 2,4,8") from None
    if len(ranks) < 3:
        raise UsageError(f"--ranks {text}: wanted three or more different ranks, for a knee needs as many")
    return ranks


def _set_rank(arguments: argparse.Namespace, rank: int) -> None:
    """Give method or change a rank to be replaced, and refuse what a sweep would overwrite or ignore.

    Raises: UsageError.
    """
    if arguments.seeds < 1:
        raise UsageError(f"--seeds must be at least 1, got {arguments.seeds}")
    if arguments.seed is not None:
        raise UsageError("--seed would be ignored: a sweep runs seeds 0 to N-1 of --seeds N")
    if arguments.beside is not None:
        raise UsageError("--beside would be ignored: a sweep prints no run's times")
    for setting in arguments.settings:
        if flag := _SWEPT.get(setting.partition("=")[0]):
            raise UsageError(f"--set {setting} would be ignored: a sweep sets it, by {flag}")
    if arguments.method is None and arguments.recipe is None:
        arguments.method = "low-rank"
    if arguments.change is not None:
        arguments.change = _with_rank("--change", arguments.change, load_change, rank)
    elif arguments.method is not None:
        arguments.method = _with_rank("--method", arguments.method, load_method, rank)


def _with_rank(flag: str, text: str, load: "Callable[[str], Callable[..., Any]]", rank: int) -> str:
    """A method or change with a rank, where it takes one."""
    name, values = parse_call(text, flag)
    for key in ("rank", "budget"):
        if values.get(key, "none") != "none":
            raise UsageError(f"{flag} {text}: {key} would be ignored: a sweep sets the rank, by --ranks")
    if "rank" not in inspect.signature(load(name)).parameters:
        return text
    return f"{name}:" + ",".join(f"{key}={value}" for key, value in {**values, "rank": rank}.items())


def _analysed_columns(cache: "Cache", group: str | None) -> "tuple[list[Column], list[str]]":
    """The patch columns to analyse and why others are left out; none for a cache without patch tokens.

    Raises: UsageError where several groups hold patch tokens and none is chosen.
    """
    from kdcache.analysis.cache_tokens import choose_columns

    groups = [group] if group else list(dict.fromkeys(each.group for each in cache.columns if each.kind == "patch"))
    if not groups:
        return [], []
    if len(groups) > 1:
        raise UsageError(
            f"{cache.paths}: groups {', '.join(groups)} hold patch tokens, the analysis is of one of them",
            remedy=Remedy.NAME_ONE_GROUP,
        )
    return choose_columns(cache, None, groups[0])


def _write_analysis(
    out: Path, cache: "Cache", columns: "list[Column]", left_out: list[str], rank: "EffectiveRank"
) -> None:
    """Write an analysis of the cache from its stored statistics, with the effective rank in it."""
    import torch

    from kdcache.analysis.cache_tokens import CacheTokens
    from kdcache.analysis.folder import write_analysis
    from kdcache.analysis.run import AnalyzeConfig, analyze

    device = torch.device("cpu")
    tokens = CacheTokens(cache, columns, num_images=0, batch_size=1, device=device, source=None)
    config = AnalyzeConfig(pictures=False)
    write_analysis(out, *analyze(tokens, config, device=device, left_out=left_out, effective_rank=rank))
