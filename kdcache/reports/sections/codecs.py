"""What codecs cost in bytes and in fidelity, and the images that caches left out."""

from collections.abc import Mapping, Sequence

from kdcache.reports.blocks import Block, Bullets, Details, Row, Section, Table, Text
from kdcache.reports.inputs import AnalysisInput, CacheInput
from kdcache.reports.words import NOTHING, counted, number_text, size_text

_MEASURES = ("relative error", "centred", "median channel", "worst channel", "above 10 %", "cosine", "energy kept")
_ERRORS = ("relative_error", "centred_error", "median_channel_error", "worst_channel_error", "channels_above_tenth")
_MEANING = (
    "Decoded values against the teacher's: root of the squared error relative to the squared values, mean cosine of a "
    "token, and the fraction of the energy that is kept. Centred: the same error relative to the spread around the "
    "channels' means, which one large channel does not hide; median and worst channel: of their own spread; above "
    "10 %: the fraction of the channels that lose more than a tenth of it."
)


def codecs_section(analyses: Sequence[AnalysisInput], caches: Sequence[CacheInput]) -> Section | None:
    """Fidelity of each analysed layer's codec, every column and bad image of each cache; None if there is neither."""
    layers = [
        Row((f"{each.label}, {layer.name}", layer.codec or NOTHING, *_fidelity(layer.fidelity)))
        for each in analyses
        for layer in each.analysis.layers
        if layer.codec
    ]
    blocks: list[Block] = []
    if layers:
        blocks.append(Table(("layer", "codec", *_MEASURES), layers, _MEANING))
    if models := [each.label for each in analyses if each.analysis.source.kind == "model"]:
        blocks.append(Text(f"No codec stands between {', '.join(models)} and its analysis: it is a model, no cache."))
    for each in caches:
        blocks += _cache(each)
    return Section("codecs", "Codecs and caches" if caches else "Codecs", blocks) if blocks else None


def _fidelity(fidelity: Mapping[str, float]) -> tuple[str, ...]:
    cosine = fidelity.get("cosine")
    return (
        *(number_text(fidelity.get(name)) for name in _ERRORS),
        NOTHING if cosine is None else f"{cosine:.6f}",
        number_text(fidelity.get("energy_kept")),
    )


def _cache(each: CacheInput) -> list[Block]:
    manifest = each.cache.manifest
    rows: list[Row] = []
    for column in each.cache.columns:
        group = each.cache.group(column.group).manifest
        facts = group.columns[column.facts.name]
        rows.append(
            Row(
                (
                    column.name,
                    column.tap,
                    " x ".join(map(str, column.shape)),
                    size_text(column.stride_bytes),
                    size_text(group.part_bytes(column.facts.name)),
                    *_fidelity(facts.fidelity),
                    f"{number_text(facts.minimum)} to {number_text(facts.maximum)}",
                )
            )
        )
    source = manifest.fingerprint.source
    teachers = [
        f"{teacher.name} ({teacher.weights} weights)"
        for group in each.cache.groups.values()
        if (teacher := group.manifest.fingerprint.teacher) is not None
    ]
    images = "embedded" if manifest.fingerprint.images == "embed" else "referred to"
    blocks: list[Block] = [
        Text(
            f"Cache {each.label}: {', '.join(teachers) or 'no teacher'} over {manifest.num_samples} of "
            f"{source.num_samples} images, {counted(manifest.fingerprint.views.num_views, 'view')} of each, in "
            f"{counted(len(manifest.shards), 'shard')}; samples {size_text(manifest.part_bytes('samples'))} (images "
            f"{images}), sha256 {each.cache.digest[:12]}…"
        ),
        Table(("column", "tap", "shape", "a record", "in all", *_MEASURES, "values"), rows, _MEANING),
    ]
    if not each.bad:
        return [*blocks, Text(f"No image of {each.label} was bad.")]
    reasons = [f"{bad.source_key}: {bad.reason}" for bad in each.bad]
    return [*blocks, Details(f"{counted(len(reasons), 'bad image')} left out of {each.label}", [Bullets(reasons)])]
