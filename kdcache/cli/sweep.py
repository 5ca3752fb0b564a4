"""One student for each rank of its linear layers, from sweep to knee: accuracies, effective rank, an analysis.

All flags are those of `kdcache train`; the student is the teacher's own architecture and begins with its weights.
Running the same command again resumes. The analysis holds accuracy over rank, the region of 85 to 95 % of the teacher's
accuracy and the knee (arXiv:2512.00792), and `kdcache report` draws them.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcache.cli import train as train_verb
from kdcache.cli.progress import ProgressReporter
from kdcache.cli.train_config import read_config
from kdcache.errors import UsageError

if TYPE_CHECKING:
    from kdcache.analysis.result import EffectiveRank

USAGE = "--ranks R,R,... --cache DIR --student NAME --student-weights W --eval-data D --out DIR [options of train]"
EXAMPLE = """example:
  kdcache sweep --ranks 2,4,8,16,32,64 --cache caches/cifar --student vit_base_patch32_224 \\
      --student-weights teacher.safetensors --eval-data cifar/test --epochs 30 --out runs/ranks"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags: those of train, and what is swept."""
    sweep = parser.add_argument_group("sweep")
    sweep.add_argument("--ranks", required=True, metavar="R,R,...", help="three or more different ranks")
    sweep.add_argument("--seeds", type=int, default=1, metavar="N", help="runs of each rank, seeds 0 to N-1 (1)")
    sweep.add_argument(
        "--teacher-accuracy", type=float, metavar="A", help="top-1 in percent (default: that of --student-weights)"
    )
    train_verb.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Sweep."""
    ranks = _ranks(arguments)
    config = read_config(arguments)

    from msgspec import to_builtins

    from kdcache.analysis.effective_rank import effective_rank, read_rank_table
    from kdcache.cli.text import print_json
    from kdcache.distributed.env import worker_env
    from kdcache.train.rank_sweep import check_sweep, dense_accuracy, sweep_ranks, write_rank_table

    out, is_main = arguments.out, worker_env().is_main
    with ProgressReporter("sweep", "runs", visible=is_main and not arguments.json) as reporter:

        def show(rank: int, seed: int, summary: dict[str, Any]) -> None:
            reporter.note(
                f"rank {rank}, seed {seed}: top-1 {summary['top1']:.2f} %, {summary['num_parameters'] / 1e6:.3g} M "
                "parameters"
            )

        check_sweep(config, ranks)
        accuracy = arguments.teacher_accuracy
        accuracy = dense_accuracy(arguments.cache, config) if accuracy is None else accuracy
        reporter.note(f"teacher: top-1 {accuracy:.2f} %")
        results = sweep_ranks(arguments.cache, out, config, ranks=ranks, seeds=range(arguments.seeds), on_run=show)
    if not is_main:
        return 0
    table = out / "ranks.csv"
    write_rank_table(table, results)
    found = effective_rank(*read_rank_table(table), accuracy)
    written = _write_analysis(out / "analysis", arguments.cache, found)
    if arguments.json:
        print_json({"rank_table": str(table), "effective_rank": to_builtins(found)})
        return 0
    low, high, knee, knee_log = (
        "-" if each is None else f"{each:.1f}" for each in (*found.region, found.knee, found.knee_log)
    )
    print(f"85 to 95 % of the teacher's accuracy: ranks {low} to {high}; knee {knee} ({knee_log} over log rank)")
    for note in found.notes:
        print(f"note: {note}")
    print(f"{table}\n{written}")
    print(f"next: kdcache report {out / 'analysis'} {out}/rank-* --out {out / 'report.html'}")
    return 0


def _ranks(arguments: argparse.Namespace) -> list[int]:
    try:
        ranks = [int(each) for each in arguments.ranks.split(",")]
    except ValueError:
        raise UsageError(f"--ranks {arguments.ranks}: wanted numbers with commas between them, such as 2,4,8") from None
    if len(set(ranks)) != len(ranks) or len(ranks) < 3 or min(ranks) < 1:
        raise UsageError(f"--ranks {arguments.ranks}: wanted three or more different ranks from 1")
    if arguments.seeds < 1:
        raise UsageError(f"--seeds must be at least 1, got {arguments.seeds}")
    if arguments.seed is not None:
        raise UsageError("--seed would be ignored: a sweep runs seeds 0 to N-1 of --seeds N")
    if arguments.teacher == "online" or arguments.beside is not None:
        raise UsageError("a sweep trains from the cache: leave out --teacher online and --beside")
    if arguments.eval_data is None:
        raise UsageError("give --eval-data: the accuracy of each rank is measured on it")
    if arguments.method is None and arguments.recipe is None:
        arguments.method = "low-rank"
    return ranks


def _write_analysis(out: Path, cache_folder: Path, rank: "EffectiveRank") -> str:
    """An analysis of the cache from its stored statistics, with the effective rank in it.

    Returns: what was written, or why nothing was.
    """
    import torch

    from kdcache.analysis.cache_tokens import CacheTokens, choose_columns
    from kdcache.analysis.folder import write_analysis
    from kdcache.analysis.run import AnalyzeConfig, analyze
    from kdcache.cache.cache import open_cache

    cache = open_cache(cache_folder)
    groups = list(dict.fromkeys(column.group for column in cache.columns if column.kind == "patch"))
    if not groups:
        return f"{cache_folder} holds no patch tokens, so no analysis was written"
    columns, left_out = choose_columns(cache, None, groups[0])
    device = torch.device("cpu")
    tokens = CacheTokens(cache, columns, num_images=0, batch_size=1, device=device, source=None)
    config = AnalyzeConfig(pictures=False)
    write_analysis(out, *analyze(tokens, config, device=device, left_out=left_out, effective_rank=rank))
    return f"{out}: analysis.json, curves.h5"
