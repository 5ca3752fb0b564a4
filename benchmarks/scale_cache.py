"""Manifests of a cache of any size, and files of the right sizes that hold nothing: what opening and planning see."""

from dataclasses import dataclass
from pathlib import Path

from kdcache.cache.base import LEAST_SAMPLE_BYTES, BaseFingerprint, BaseManifest, BaseShard, planned_shards
from kdcache.cache.codecs import make_codec
from kdcache.cache.facts import ColumnFacts, ColumnSummary, FileFacts, SourceFacts, TeacherFacts, ViewFacts
from kdcache.cache.group import GroupFingerprint, GroupManifest, GroupShard
from kdcache.cache.manifest import FORMAT_VERSION, fingerprint_bytes, fingerprint_digest, write_manifest
from kdcache.cache.paths import INDEX, LEDGER, SAMPLES, CachePaths
from kdcache.cache.shard import trailer
from kdcache.seeds import derived_key
from kdcache.views import VIEW_FIELDS

GROUP = "teacher"
COLUMN = "features"
_SHAPE = (196, 384)
_INDEX_BYTES = 1 << 20
_LEDGER_BYTES = 1 << 10
_MEAN_OF_RGB, _DEVIATION_OF_RGB = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@dataclass(frozen=True, kw_only=True)
class SimulatedCache:
    """A finished cache of one group of one column, one view an image.

    Args:
        num_shards, shard_samples: How many, and images in each.
        codec: Of the column, (196, 384) tokens.
    """

    num_shards: int
    shard_samples: int
    codec: str = "int8"


def write_simulated(simulated: SimulatedCache, folder: Path) -> None:
    """Write its manifests, and its files as holes: sizes are right, every byte is zero and takes no space."""
    paths = CachePaths(folder)
    base = _base_fingerprint(simulated)
    names = [shard.name for shard in planned_shards(base)]
    manifest = BaseManifest(
        fingerprint=base,
        shards=[
            BaseShard(name=name, num_samples=simulated.shard_samples, num_bad=0, files=_base_files(name, simulated))
            for name in names
        ],
        image_modes={"RGB": base.source.num_samples},
        num_rotated=0,
        num_bad=0,
    )
    group = _group_fingerprint(simulated, base)
    paths.group(GROUP).root.mkdir(parents=True)
    digest = write_manifest(paths, manifest)
    size = simulated.shard_samples * group.columns[0].stride_bytes + len(trailer(fingerprint_bytes(group)))
    files = {
        name: {COLUMN: _facts(name, COLUMN, size_bytes=size), INDEX: _facts(name, GROUP, size_bytes=_INDEX_BYTES)}
        for name in names
    }
    group_manifest = GroupManifest(
        fingerprint=group,
        base=digest,
        shards=[GroupShard(name=name, files=files[name]) for name in names],
        columns={COLUMN: _SUMMARY},
    )
    write_manifest(paths.group(GROUP), group_manifest)
    _write_holes(paths, {shard.name: shard.files for shard in manifest.shards})
    _write_holes(paths.group(GROUP), files)


def _write_holes(paths: CachePaths, shards: dict[str, dict[str, FileFacts]]) -> None:
    for part in next(iter(shards.values())):
        paths.shard(part, "any").parent.mkdir(parents=True, exist_ok=True)
    for name, files in shards.items():
        for part, facts in files.items():
            with paths.shard(part, name).open("wb") as file:
                file.truncate(facts.size_bytes)


def _facts(*what: object, size_bytes: int) -> FileFacts:
    digest = derived_key(*what).hex()
    return FileFacts(sha256=digest, xxh3=digest[:16], size_bytes=size_bytes)


def _base_files(name: str, simulated: SimulatedCache) -> dict[str, FileFacts]:
    sizes = {SAMPLES: simulated.shard_samples * LEAST_SAMPLE_BYTES, LEDGER: _LEDGER_BYTES, INDEX: _INDEX_BYTES}
    return {part: _facts(name, part, size_bytes=size) for part, size in sizes.items()}


_SUMMARY = ColumnSummary(
    fidelity={"relative_error": 0.0065}, minimum=-8.0, maximum=8.0, rms=1.0, num_tokens=1, num_zero_tokens=0
)


def _base_fingerprint(simulated: SimulatedCache) -> BaseFingerprint:
    return BaseFingerprint(
        format_version=FORMAT_VERSION,
        split="train",
        order="shuffle",
        images="embed",
        shard_samples=simulated.shard_samples,
        source=SourceFacts(
            kind="wds",
            subset=None,
            num_samples=simulated.num_shards * simulated.shard_samples,
            keys_sha256=derived_key("keys").hex(),
            labels_sha256=derived_key("labels").hex(),
            num_classes=1000,
            class_names=[],
        ),
        views=ViewFacts(
            recipe="rrc-flip",
            seed=0,
            num_views=1,
            size=224,
            interpolation="bicubic",
            fields=list(VIEW_FIELDS),
            params={},
            mean=_MEAN_OF_RGB,
            std=_DEVIATION_OF_RGB,
            jpeg_quality=0,
        ),
        versions={},
    )


def _group_fingerprint(simulated: SimulatedCache, base: BaseFingerprint) -> GroupFingerprint:
    column = ColumnFacts(
        name=COLUMN,
        tap="blocks.0/patch",
        kind="patch",
        codec=simulated.codec,
        params={},
        shape=list(_SHAPE),
        grid=[14, 14],
        stride_bytes=make_codec(simulated.codec, {}).layout(_SHAPE).stride_bytes,
    )
    teacher = TeacherFacts(
        name="simulated",
        kwargs={},
        pretrained_cfg={},
        num_blocks=1,
        weights="random",
        weights_sha256="",
        precision="bf16",
        device="cpu",
        cpu_threads=1,
        mean=_MEAN_OF_RGB,
        std=_DEVIATION_OF_RGB,
    )
    return GroupFingerprint(
        format_version=FORMAT_VERSION,
        base=fingerprint_digest(base),
        teacher=teacher,
        batch_size=1,
        statistics="light",
        columns=[column],
        versions={},
    )
