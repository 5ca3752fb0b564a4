"""What `kdcache plan` prints above its verdict: a table of what the cache takes and gives."""

from typing import TYPE_CHECKING

from kdcache.cli.text import counted, size_text

if TYPE_CHECKING:
    from kdcache.planning.plan import Plan, PlanConfig


def plan_text(plan: "Plan", config: "PlanConfig") -> str:
    """The table.

    Args:
        plan: What was found.
        config: What was asked.
    """
    rows = [*_cache_rows(plan), *_pass_rows(plan), *_training_rows(plan, config)]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name.ljust(width)}  {text}" for name, text in rows)


def _cache_rows(plan: "Plan") -> list[tuple[str, str]]:
    figures, sizes = plan.figures, plan.sizes
    parts = [(name, size) for name, size in sizes.columns.items()]
    parts += [("copied images", sizes.images)] if sizes.images else []
    return [
        (
            "images",
            f"{figures.num_images:,} x {counted(figures.num_views, 'view')}, {size_text(plan.image_bytes)} each",
        ),
        ("cache", f"{size_text(sizes.total)} ({figures.free_bytes / 1e9:.3g} GB free)"),
        *((f"  {name}", size_text(size)) for name, size in [*parts, ("indexes, views, headers", sizes.rest)]),
    ]


def _pass_rows(plan: "Plan") -> list[tuple[str, str]]:
    from kdcache.planning.verdict import duration_text

    figures, disk = plan.figures, plan.disk
    memory = ", but all of the cache fits into memory" if plan.fits_memory else ""
    return [
        (
            "pass",
            f"{duration_text(figures.pass_total_s)} at {plan.views_per_s:.3g} views/s (measured on "
            f"{counted(plan.num_measured, 'view')}), limited by {plan.limited_by}",
        ),
        (
            "disk",
            f"writes {size_text(disk.write_bytes_per_s)}/s, reads {size_text(disk.read_bytes_per_s)}/s{memory}",
        ),
    ]


def _training_rows(plan: "Plan", config: "PlanConfig") -> list[tuple[str, str]]:
    from kdcache.planning.verdict import duration_text

    figures, costs = plan.figures, plan.training
    even, saved = figures.break_even_epochs, plan.memory_saved_bytes
    rows = [
        (
            "a view",
            f"student's step {_ms(figures.step_s)}, teacher beside it {_ms(figures.teacher_s)}, reading "
            f"{_ms(figures.cached_read_s)} from the cache and {_ms(figures.online_read_s)} without",
        ),
        ("pixels", _pixels_text(plan)),
        ("student", f"{config.student.name}, steps of {counted(costs.batch_size, 'view')} on {costs.device}"),
        (
            "an epoch",
            f"{duration_text(figures.cached_epoch_s)} from the cache, {duration_text(figures.online_epoch_s)} with the "
            "teacher in the loop",
        ),
        ("break-even", "never" if even == float("inf") else f"after {even:.3g} epochs"),
        ("memory saved", "not measured on a CPU" if saved is None else f"{size_text(saved)} of the accelerator"),
    ]
    return rows


def _pixels_text(plan: "Plan") -> str:
    """What each way to a view's pixels takes, and the one to take."""
    from kdcache.planning.pixel_forms import smallest_that_keeps_up

    num_records = plan.figures.num_images * plan.figures.num_views
    forms = ", ".join(
        f"{form.name} {size_text(round(form.bytes_per_view * num_records))} and {_ms(form.read_s)} a view"
        for form in plan.pixel_forms
    )
    best = smallest_that_keeps_up(plan.pixel_forms, plan.figures.step_s)
    why = (
        "the smallest that keeps up with a step" if best.read_s <= plan.figures.step_s else "none keeps up with a step"
    )
    return f"{forms}; take --pixels {best.name}: {why}"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"
