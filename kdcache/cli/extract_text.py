"""What `kdcache extract` prints: what it found and will need, and what it did."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from kdcache.cli.text import choice_text, counted, fidelity_text, size_text
from kdcache.errors import one_line
from kdcache.remote.url import Location

if TYPE_CHECKING:
    from kdcache.images import Source
    from kdcache.teacher.agreement import Agreement
    from kdcache.teacher.estimate import PassEstimate
    from kdcache.teacher.extract import ExtractReport

_MAX_CLASSES = 12


def source_text(source: "Source", data: str, estimate: "PassEstimate | None" = None) -> str:
    """What was found: images, what was passed over, labels and where they are from, classes; and what it will take.

    Args:
        source: The images.
        data: As they were named.
        estimate: Of the pass.
    """
    images = source.images
    bare = [image.key for image in images if image.label < 0]
    names = data.split("::")
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    lines = [f"{names[0]}{more}: {counted(len(images), 'image')}"]
    if any(source.passed_over.values()):
        lines.append(f"  passed over: {one_line(source.passed_over_text())}")
    if len(bare) == len(images):
        lines.append("  labels: none; students can be trained on the teacher alone")
    elif bare:
        lines.append(
            f"  labels: {len(images) - len(bare)} of {len(images)}, from {source.label_source}; the first without is "
            f"{bare[0]!r}"
        )
    else:
        lines.append(f"  labels: all, from {source.label_source}")
    if num_classes := source.num_classes:
        names = [f"{index} {one_line(name)}" for index, name in enumerate(source.class_names)]
        shown = names if len(names) <= _MAX_CLASSES else [*names[: _MAX_CLASSES - 1], "…", names[-1]]
        lines.append(f"  classes: {num_classes}" + (f": {', '.join(shown)}" if shown else ", by number"))
        if not shown and len(bare) < len(images) and min(image.label for image in images if image.label >= 0) == 1:
            lines.append("  no label is 0: if they begin at 1, count them from 0, as teachers do")
    return "\n".join([*lines, *(_estimate_lines(estimate) if estimate is not None else [])])


def _estimate_lines(estimate: "PassEstimate") -> list[str]:
    pending = f"{counted(estimate.num_views, 'view')} of {counted(estimate.num_images, 'image')}"
    free = f"{size_text(estimate.free_bytes)} free"
    if not estimate.num_images:
        return [f"  to do: nothing, all shards are there; {free}"]
    if estimate.size_bytes is None or estimate.teacher_s is None:
        return [
            f"  to do: {pending}, {free}; bytes and time cannot be told before the teacher is loaded "
            f"({estimate.unknown})"
        ]
    rate = estimate.num_views / estimate.teacher_s if estimate.teacher_s else 0.0
    return [
        f"  to write: about {size_text(estimate.size_bytes)} ({pending}), {free}",
        f"  time: about {_duration(estimate.teacher_s)} in the teacher at {rate:.3g} views/s, measured here with empty "
        "weights (within a factor of 5); reading images may take longer",
    ]


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def agreement_text(agreement: "Agreement") -> str:
    """One line: how often the cached logits agree with the labels."""
    differ = agreement.num_labels != agreement.num_classes
    labels = f" (labels: {agreement.num_labels} classes)" if differ else ""
    return (
        f"  {agreement.column}: the largest of {agreement.num_classes} logits is the label's for "
        f"{agreement.fraction:.1%} of {counted(agreement.num_images, 'image')}{labels}"
    )


def caution_text(found: "Sequence[Agreement]", *, is_random: bool) -> str:
    """A warning where logits and labels have nothing to do with each other; empty for a teacher that cannot know."""
    near = [agreement for agreement in found if agreement.is_near_chance]
    if not near or is_random:
        return ""
    return (
        f"caution: {near[0].column} agrees with the labels no more often than guessing would ({near[0].fraction:.1%}); "
        "either the teacher was trained on other classes, or on these in another order: give its order with "
        "--class-order or --class-map, and extract into another folder"
    )


def next_text(report: "ExtractReport", out: Location) -> list[str]:
    """What to do next, once a cache is finished."""
    return [] if report.base is None else [f"next: kdcache verify {out}"]


def report_facts(report: "ExtractReport", found: "Sequence[Agreement]") -> dict[str, Any]:
    """A report as JSON."""
    return {
        "finished": report.base is not None,
        "groups": list(report.groups),
        "shards_written": report.num_shards,
        "shards_skipped": report.num_skipped,
        "views_written": report.num_records,
        "seconds": report.seconds,
        "times": asdict(report.times),
        "num_bad": report.base.num_bad if report.base else None,
        "label_agreement": {
            each.column: {name: value for name, value in asdict(each).items() if name != "column"} for each in found
        },
    }


def summary_text(report: "ExtractReport", out: Location, worker: str = "") -> str:
    """What a pass did, and what the cache holds.

    Args:
        report: Of the pass.
        out: The cache.
        worker: Which of several workers this is, and who says so.
    """
    import msgspec

    lines: list[str] = []
    if report.num_records:
        fractions = ", ".join(f"{stage} {fraction:.0%}" for stage, fraction in report.times.shares().items())
        rate = report.num_records / report.seconds
        lines.append(
            f"{out}: {report.num_records} views in {report.seconds:.1f} s ({rate:.1f} views/s), limited by "
            f"{report.times.bottleneck} ({fractions})"
        )
    base = report.base
    if base is None:
        lines.append(
            f"{out}: this worker is done and some shards are still pending: wait for the other workers, "
            "or run the same command again" + (f" (this was {worker}: alone it leaves their part)" if worker else "")
        )
        return "\n".join(lines)
    if not report.num_shards:
        lines.append(f"{out}: nothing was pending, all {report.num_skipped} shards are there")
    lines.append(
        f"{out}: {counted(base.num_samples, 'image')} x {counted(base.fingerprint.views.num_views, 'view')} in "
        f"{counted(len(base.shards), 'shard')}"
        + (f", {counted(base.num_bad, 'bad image')} (see {out / 'ledger'})" if base.num_bad else "")
    )
    for name, group in report.groups.items():
        for column in group.fingerprint.columns:
            known = group.columns.get(column.name)
            cost = fidelity_text(known.fidelity) if known is not None else ""
            lines.append(f"  {name}/{column.name}: {size_text(group.part_bytes(column.name))}{cost}")
            if column.choice is not None:
                lines.append(f"    {choice_text(msgspec.to_builtins(column.choice))}")
    return "\n".join(lines)
