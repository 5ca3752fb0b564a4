"""Make a cache, or a part of one, from what is there; no teacher runs and nothing that is read is changed.

With --codec the columns of a group are decoded and encoded again as a new group beside it. What that loses is measured
relative to the group that is converted. With --out a cache becomes one HDF5 file, and such a file the cache that it
was, with the same bytes. With --data features that another program made become a cache beside their images. Run the
same command again to resume.
"""

import argparse
from typing import TYPE_CHECKING

from kdcache.cli.data_flags import DATA_HELP, RULES, add_data, add_rules
from kdcache.cli.parser import refuse_ignored
from kdcache.cli.places import local_path
from kdcache.cli.progress import ProgressReporter
from kdcache.cli.text import codec_names, counted, fidelity_text, print_json, size_text
from kdcache.errors import UsageError

if TYPE_CHECKING:
    from kdcache.convert.codec import ConvertedGroup
    from kdcache.convert.imported import Imported

USAGE = "SOURCE (--codec CODEC | --out PATH | --data IMAGES --teacher NAME --out DIR) [options]"
EXAMPLE = """examples:
  kdcache convert caches/inet --codec int4            every token column of its teacher, as group NAME-int4
  kdcache convert caches/inet --group cait-s24-224 --column blocks-23-patch-fp16 --codec int8c --name small
  kdcache convert caches/inet --out inet.h5           the whole cache as one file
  kdcache convert inet.h5 --out caches/inet           and back, to the same bytes
  kdcache convert features --data photos --teacher vit_base_patch14_dinov2 --tap blocks.-1/patch --out caches/dino"""
_ENDINGS = (".h5", ".hdf5")
_FOREIGN = ("teacher", "teacher_kwargs", "tap", "tensor", "shard_samples", *RULES)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument(
        "source", type=local_path, metavar="SOURCE", help="a cache, an HDF5 file that --out wrote, or features"
    )
    codec = parser.add_argument_group("to another codec")
    codec.add_argument(
        "--codec", metavar="CODEC", help=f"of the new columns: {', '.join(codec_names())} (with --data: fp16)"
    )
    codec.add_argument("--group", metavar="NAME", help="whose columns (the only teacher's)")
    codec.add_argument(
        "--column",
        action="append",
        metavar="NAME",
        help="which of them; repeat for more (all that the codec is for)",
    )
    codec.add_argument("--name", metavar="NAME", help="of the new group (GROUP-CODEC, or the teacher's name)")
    codec.add_argument("--max-error", type=float, metavar="E", help="most that the codec may lose of the columns (0.1)")
    whole = parser.add_argument_group("to another form")
    whole.add_argument("--out", type=local_path, metavar="PATH", help="FILE.h5 for a cache, a folder for such a file")
    foreign = parser.add_argument_group(
        "features of another program (.npy files in a folder; tars with .safetensors or .npy)"
    )
    add_data(foreign, "--data", help=f"the images, whose names the features have: {DATA_HELP}")
    foreign.add_argument("--teacher", metavar="NAME", help="timm's name of the model that made them")
    foreign.add_argument("--teacher-kwargs", action="extend", nargs="+", metavar="K=V", help="its arguments")
    foreign.add_argument("--tap", metavar="TAP", help="what they are, as in extract (blocks.-1/patch)")
    foreign.add_argument("--tensor", metavar="NAME", help="which one of a file that holds several")
    foreign.add_argument("--shard-samples", type=int, metavar="N", help="images in a shard (512)")
    add_rules(foreign)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Convert."""
    flags = {name: getattr(arguments, name, None) for name in ("group", "column", "name", "max_error", *_FOREIGN)}
    given = {_flag(name): value for name, value in flags.items()}
    if arguments.data is not None:
        refused = [flag for flag in ("--group", "--column") if given[flag] is not None]
        if refused:
            raise UsageError(f"{', '.join(refused)} would be ignored: features of another program have no groups yet")
        return _import(arguments)
    refuse_ignored({flag: given[flag] for flag in map(_flag, _FOREIGN)}, without="--data", given=False)
    of_codec = {flag: given[flag] for flag in ("--group", "--column", "--name", "--max-error")}
    refuse_ignored(of_codec, without="--codec", given=arguments.codec is not None)
    if (arguments.codec is None) == (arguments.out is None):
        raise UsageError("give one of --codec, for a new group in the cache, and --out, for another form of it")
    if arguments.codec is not None:
        return _convert_codec(arguments)
    if arguments.source.is_dir():
        return _write_file(arguments)
    return _restore(arguments)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _import(arguments: argparse.Namespace) -> int:
    from kdcache.config import parse_pairs
    from kdcache.convert.imported import Import, import_features

    if arguments.teacher is None or arguments.out is None:
        raise UsageError("features of another program need --teacher, the model that made them, and --out, the cache")
    if arguments.out.suffix.lower() in _ENDINGS:
        raise UsageError(f"--out {arguments.out}: features become a cache first; wanted a folder")
    optional = {
        "group": arguments.name,
        "max_error": arguments.max_error,
        "shard_samples": arguments.shard_samples,
        "teacher_kwargs": parse_pairs(arguments.teacher_kwargs or [], "--teacher-kwargs"),
        **{name: getattr(arguments, name, None) for name in RULES},
    }
    named = {"tap": arguments.tap, "tensor": arguments.tensor, "codec": arguments.codec}
    try:
        job = Import(
            features=arguments.source,
            data=arguments.data,
            out=arguments.out,
            teacher=arguments.teacher,
            settings={name: value for name, value in optional.items() if value is not None},
            **{name: value for name, value in named.items() if value is not None},
        )
        job.extraction()
    except ValueError as error:
        raise UsageError(str(error)) from None
    with ProgressReporter("convert", "images", visible=not arguments.json) as reporter:
        done = import_features(job, on_progress=lambda done, total: reporter.update(done, total, ""))
    if arguments.json:
        print_json({"group": done.group, "shards_written": done.num_shards, "shards_skipped": done.num_skipped})
        return 0
    print(f"{job.out}: features from {arguments.source}, with their images, {_counts(done)}")
    for column in done.manifest.fingerprint.columns:
        lost = fidelity_text(done.manifest.columns[column.name].fidelity)
        print(f"  {done.group}/{column.name}: {size_text(done.manifest.part_bytes(column.name))}{lost}")
    print(f"next: kdcache verify {job.out}")
    return 0


def _convert_codec(arguments: argparse.Namespace) -> int:
    from kdcache.convert.codec import CodecConversion, convert_codec

    if arguments.source.is_file():
        raise UsageError(
            f"{arguments.source}: is a file; a codec is converted inside a cache, so make it one with --out"
        )
    try:
        config = CodecConversion(
            cache=arguments.source,
            codec=arguments.codec,
            group=arguments.group,
            columns=arguments.column,
            name=arguments.name,
            max_error=arguments.max_error,
        )
    except ValueError as error:
        raise UsageError(str(error)) from None
    with ProgressReporter("convert", "shards", visible=not arguments.json) as reporter:
        done = convert_codec(config, on_progress=lambda done, total: reporter.update(done, total, ""))
    converted = done.manifest.fingerprint.converted
    assert converted is not None, "it was converted"
    if arguments.json:
        print_json({"group": done.name, "shards_written": done.num_shards, "shards_skipped": done.num_skipped})
        return 0
    print(f"{arguments.source}/{done.name}: converted from {converted.group}, {_counts(done)}; errors relative to it")
    for column in done.manifest.fingerprint.columns:
        size = size_text(done.manifest.part_bytes(column.name))
        source = converted.columns[column.name]
        lost = "unknown" if source.relative_error is None else f"{source.relative_error:.2g}"
        print(
            f"  {done.name}/{column.name}: {size}{fidelity_text(done.manifest.columns[column.name].fidelity)}; "
            f"{source.column} has {lost} to the teacher itself"
        )
    print(f"next: kdcache verify {arguments.source} --group {done.name}")
    return 0


def _counts(done: "ConvertedGroup | Imported") -> str:
    before = f", {done.num_skipped} were there" if done.num_skipped else ""
    return f"{counted(done.num_shards, 'shard')} written{before}"


def _write_file(arguments: argparse.Namespace) -> int:
    from kdcache.convert.to_hdf5 import to_hdf5

    if arguments.out.suffix.lower() not in _ENDINGS:
        raise UsageError(
            f"--out {arguments.out}: {arguments.source} is a folder; wanted the name of a file, such as cache.h5"
        )
    with ProgressReporter("convert", "shards", visible=not arguments.json) as reporter:
        done = to_hdf5(
            arguments.source, arguments.out, on_progress=lambda done, total: reporter.update(done, total, "")
        )
    if arguments.json:
        facts = {"size_bytes": done.size_bytes, "shards_written": done.num_shards, "shards_skipped": done.num_skipped}
        print_json({"file": str(done.path), **facts})
    else:
        print(f"{done.path}: {size_text(done.size_bytes)}, {counted(done.num_shards, 'shard')} written")
    return 0


def _restore(arguments: argparse.Namespace) -> int:
    from kdcache.convert.from_hdf5 import from_hdf5

    if not arguments.source.exists():
        raise UsageError(f"{arguments.source}: is neither a cache nor an HDF5 file: nothing is there")
    with ProgressReporter("convert", "files", visible=not arguments.json) as reporter:
        done = from_hdf5(
            arguments.source, arguments.out, on_progress=lambda done, total: reporter.update(done, total, "")
        )
    if arguments.json:
        print_json({"cache": str(done.root), "files_written": done.num_files, "files_skipped": done.num_skipped})
    else:
        print(f"{done.root}: {counted(done.num_files, 'file')} written, with the hashes that they had")
        print(f"next: kdcache verify {done.root}")
    return 0
