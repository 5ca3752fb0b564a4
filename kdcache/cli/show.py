"""What a cache holds: teacher, views, columns with their size and fidelity, bad images; one record as a picture."""

import argparse
from typing import TYPE_CHECKING, Any

from kdcache.cli.data_flags import add_data
from kdcache.cli.parser import output_file, refuse_ignored
from kdcache.cli.places import PLACE_HELP, place
from kdcache.cli.remedies import error_text
from kdcache.cli.text import choice_text, counted, fidelity_text, print_json, size_text
from kdcache.errors import UsageError

if TYPE_CHECKING:
    from kdcache.cache.cache import Cache
    from kdcache.cache.group import Group

USAGE = "CACHE [options]"
EXAMPLE = """examples:
  kdcache show caches/inet
  kdcache show caches/inet --picture record.png    the first image: its view beside the teacher's tokens"""

_BAD_SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("cache", type=place, metavar="CACHE", help=f"the cache: a {PLACE_HELP}")
    parser.add_argument("--group", metavar="NAME", help="show this group only (default: all)")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    picture = parser.add_argument_group("picture")
    picture.add_argument("--picture", type=output_file(".png"), metavar="FILE.png", help="draw one record")
    picture.add_argument("--key", help="which image (default: the first)")
    picture.add_argument("--view", type=int, default=0, help="which view (0)")
    picture.add_argument("--column", help="which column (default: the first patch column)")
    add_data(picture, "--data", help="the source, for a cache that refers to its images")


def run(arguments: argparse.Namespace) -> int:
    """Show."""
    from kdcache.cache.cache import open_cache

    drawn = {"--key": arguments.key, "--column": arguments.column, "--data": arguments.data}
    refuse_ignored(drawn, without="--picture", given=arguments.picture)
    cache = open_cache(arguments.cache)
    facts = _facts(cache, arguments.group)
    if arguments.json:
        print_json(facts)
    else:
        _print_facts(facts)
    if arguments.picture is not None:
        _draw(cache, arguments)
    return 0


def _facts(cache: "Cache", only: str | None) -> dict[str, Any]:
    import msgspec

    from kdcache.cache.job import read_ledger

    manifest = cache.manifest
    groups = list(cache.groups.values()) if only is None else [cache.group(only)]
    bad = [
        {"shard": shard.name, "key": each.key, "source_key": each.source_key, "reason": each.reason}
        for shard in manifest.shards
        if shard.num_bad
        for each in read_ledger(cache.hold("ledger", shard).path)
    ]
    built: dict[str, Any] = msgspec.to_builtins(manifest.fingerprint)
    return {
        "cache": str(cache.paths),
        "sha256": cache.digest,
        **{name: built[name] for name in ("format_version", "split", "order", "images", "versions")},
        "source": built["source"],
        "views": built["views"],
        "groups": {group.name: _group_facts(group) for group in groups},
        "unusable": {name: error_text(error) for name, error in cache.unusable.items()},
        "later_versions": manifest.later_versions,
        "shards": len(manifest.shards),
        "samples": manifest.num_samples,
        "records": manifest.num_records,
        "samples_bytes": manifest.part_bytes("samples"),
        "index_bytes": manifest.part_bytes("index"),
        "image_modes": manifest.image_modes,
        "exif_rotated": manifest.num_rotated,
        "bad": bad,
    }


def _group_facts(group: "Group") -> dict[str, Any]:
    import msgspec

    manifest = group.manifest
    built: dict[str, Any] = msgspec.to_builtins(manifest.fingerprint)
    summaries: dict[str, Any] = msgspec.to_builtins(manifest.columns)
    return {
        "sha256": group.digest,
        **{name: built[name] for name in ("teacher", "batch_size", "statistics", "versions")},
        "converted": built.get("converted"),
        "later_versions": manifest.later_versions,
        "index_bytes": manifest.part_bytes("index"),
        "columns": [
            {**column, **summaries.get(column["name"], {}), "bytes": manifest.part_bytes(column["name"])}
            for column in built["columns"]
        ],
    }


def _print_facts(facts: dict[str, Any]) -> None:
    views, source = facts["views"], facts["source"]
    subset = source["subset"]
    size = counted(facts["shards"], "shard")
    print(f"{facts['cache']}: format {facts['format_version']}, {size}, sha256 {facts['sha256'][:12]}…")
    modes = ", ".join(f"{count} {mode}" for mode, count in facts["image_modes"].items())
    print(
        f"images    {facts['samples']} of {source['num_samples']} from {source['kind']}, {source['num_classes']} "
        "classes" + (f", {subset['per_class']} of each class (seed {subset['seed']})" if subset is not None else "")
    )
    is_applied = "applied" if views.get("exif") == "apply" else "not applied"
    behind = f"; transparent pixels over {views['alpha']}" if views.get("alpha") else ""
    print(f"          {modes}; {facts['exif_rotated']} with an EXIF rotation ({is_applied}){behind}")
    where = "embedded" if facts["images"] == "embed" else "referred to"
    print(
        f"          samples {size_text(facts['samples_bytes'])} (images {where}), index "
        f"{size_text(facts['index_bytes'])}"
    )
    size = f"{views['size']} x {views['size']}"
    jpeg = f", as JPEG of quality {views['jpeg_quality']}" if views["jpeg_quality"] else ""
    print(
        f"views     {views['num_views']} x {views['recipe']}, {size}, {views['interpolation']}, seed {views['seed']}"
        + jpeg
    )
    for name, group in facts["groups"].items():
        _print_group(name, group)
    for name, error in facts["unusable"].items():
        print(f"group     {name}: cannot be used: {error}")
    print("versions  " + _versions(facts))
    print(f"bad       {len(facts['bad'])} images")
    for each in facts["bad"][:_BAD_SHOWN]:
        print(f"          {each['shard']} {each['source_key']!r}: {each['reason']}")
    if len(facts["bad"]) > _BAD_SHOWN:
        print(f"          and {len(facts['bad']) - _BAD_SHOWN} more (--json lists all)")


def _print_group(name: str, group: dict[str, Any]) -> None:
    teacher = group["teacher"]
    if teacher is None:
        print(f"group     {name}: the views themselves")
    else:
        weights = f"{teacher['weights']} weights {teacher['weights_sha256'][:12]}…"
        print(f"group     {name}: {teacher['name']}, {weights}, {teacher['precision']} on {teacher['device']}")
        print(f"          {_versions(group)}")
        if converted := group["converted"]:
            print(f"          converted from {converted['group']}; errors are relative to it{_lost_before(converted)}")
    for column in group["columns"]:
        shape = " x ".join(str(side) for side in column["shape"])
        print(f"  column  {name}/{column['name']}: {column['tap']}, {shape}")
        record = size_text(column["stride_bytes"]) if column["stride_bytes"] else "differs from record to record"
        print(f"          {size_text(column['bytes'])}, {record} a record{_cost(column)}")
        if choice := column.get("choice"):
            print(f"          {choice_text(choice)}")
        if "minimum" in column:
            print(f"          values {column['minimum']:.4g} to {column['maximum']:.4g}, rms {column['rms']:.4g}")


def _lost_before(converted: dict[str, Any]) -> str:
    """What the columns had lost that were converted."""
    errors = [each["relative_error"] for each in converted["columns"].values()]
    if None in errors:
        return ", and what its columns had lost is unknown"
    return f", whose columns had lost up to {max(errors):.2g}"


def _cost(column: dict[str, Any]) -> str:
    if "fidelity" not in column:
        return ""
    return fidelity_text(column["fidelity"]) or ", fidelity unknown (rebuilt)"


def _versions(facts: dict[str, Any]) -> str:
    first = facts["versions"]
    texts = [", ".join(f"{name} {version}" for name, version in first.items())]
    for later in facts["later_versions"]:
        changed = ", ".join(f"{name} {version}" for name, version in later.items() if first.get(name) != version)
        texts.append(f"some shards by {changed}")
    return "; ".join(texts)


def _draw(cache: "Cache", arguments: argparse.Namespace) -> None:
    from kdcache.images import open_again
    from kdcache.reading.reader import ShardReader
    from kdcache.reports.token_map import draw_token_map
    from kdcache.stream.images import ViewReplayer

    columns = [column for column in cache.columns if column.kind == "patch"]
    chosen = [column for column in columns if arguments.column in (None, column.name, column.facts.name)]
    if not columns:
        raise UsageError("--picture: a picture is drawn of patch tokens, and this cache has none")
    if not chosen:
        names = ", ".join(column.name for column in columns)
        raise UsageError(f"--column {arguments.column}: a picture needs a patch column; this cache has {names}")
    num_views = cache.num_views
    if not 0 <= arguments.view < num_views:
        raise UsageError(f"--view {arguments.view}: the cache has views 0 to {num_views - 1}")
    reader = ShardReader(cache, [chosen[0]], check="size")
    source = open_again(arguments.data, cache.manifest.fingerprint.source.rules)
    replayer = ViewReplayer(cache, reader, source, check_share=1.0)
    sample = _find(cache, arguments.key)
    shard, row = reader.locate(sample)
    pixels = next(replayer.pixels(shard, row, sample, [arguments.view]))
    features = reader.decode_record(shard, row, arguments.view, chosen[0])
    rows, columns_ = chosen[0].grid
    shown = f"{shard.index.key(row)}, view {arguments.view}"
    draw_token_map(arguments.picture, pixels, features.reshape(rows, columns_, -1), f"{shown}\n{chosen[0].label}")
    print(f"picture   {arguments.picture}: {shown}, {chosen[0].label}")


def _find(cache: "Cache", key: str | None) -> int:
    first = 0
    for shard in cache.manifest.shards:
        index = cache.index(shard)
        for row in range(len(index)):
            if key in (None, index.key(row), index.sample(row).source_key):
                return first + row
        first += len(index)
    raise UsageError(f"--key {key}: the cache holds no such image")
