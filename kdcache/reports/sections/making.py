"""How everything on the page was made."""

from collections.abc import Mapping
from typing import Any

from kdcache.cache.group import Group
from kdcache.reports.blocks import Block, Bullets, Details, Heading, Row, Section, Table
from kdcache.reports.inputs import AnalysisInput, CacheInput, Inputs, RunInput


def making_section(inputs: Inputs) -> Section:
    """Settings, versions and origins of each analysis, run and cache."""
    blocks: list[Block] = []
    for each in inputs.analyses:
        blocks += _analysis(each)
    for each in inputs.runs:
        blocks += _run(each)
    for each in inputs.caches:
        blocks += _cache(each)
    return Section("making", "How this was made", blocks)


def _analysis(each: AnalysisInput) -> list[Block]:
    analysis = each.analysis
    blocks: list[Block] = [Heading(f"Analysis {each.label}")]
    if analysis.made_from:
        rows = [Row(pair) for pair in analysis.made_from.items()]
        blocks.append(Table(("part", "made from"), rows, "What each part was computed from.", has_words=True))
    blocks.append(Bullets([f"Left out: {reason}" for reason in analysis.left_out] or ["Nothing was left out."]))
    blocks.append(_settings("Settings and versions", {"settings": analysis.settings, "versions": analysis.versions}))
    return blocks


def _run(each: RunInput) -> list[Block]:
    if not each.record:
        return [Heading(f"Run {each.label}"), Bullets(["No config.json: its settings are not known."])]
    return [Heading(f"Run {each.label}"), _settings("Settings, versions, cache and commit", each.record)]


def _cache(each: CacheInput) -> list[Block]:
    fingerprint = each.cache.manifest.fingerprint
    facts = {
        "sha256": each.cache.digest,
        "views": {
            "recipe": fingerprint.views.recipe,
            "params": fingerprint.views.params,
            "seed": fingerprint.views.seed,
        },
        "versions": fingerprint.versions,
        "groups": {name: _group(group) for name, group in each.cache.groups.items()},
    }
    return [Heading(f"Cache {each.label}"), _settings("Teachers, views and versions", facts)]


def _group(group: Group) -> dict[str, Any]:
    fingerprint = group.manifest.fingerprint
    teacher = fingerprint.teacher
    facts: dict[str, Any] = {"sha256": group.digest, "versions": fingerprint.versions}
    if teacher is not None:
        facts["teacher"] = {
            "name": teacher.name,
            "kwargs": teacher.kwargs,
            "weights": teacher.weights,
            "weights_sha256": teacher.weights_sha256,
            "precision": teacher.precision,
            "device": teacher.device,
        }
    return facts


def _settings(summary: str, values: Mapping[str, Any]) -> Details:
    rows = [Row(pair) for pair in _flat("", values)]
    return Details(summary, [Table(("name", "value"), rows, "As recorded.", has_words=True)])


def _flat(name: str, value: Any) -> list[tuple[str, str]]:
    if not isinstance(value, Mapping) or not value:
        return [(name, "none" if value is None else str(value))]
    return [pair for key, each in value.items() for pair in _flat(f"{name}.{key}" if name else str(key), each)]
