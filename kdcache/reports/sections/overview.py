"""What the page is about and what came out, in one paragraph each."""

from collections.abc import Sequence

from kdcache.analysis.result import SourceFacts
from kdcache.reports.blocks import Block, Bullets, Details, Heading, Row, Section, Table, Text
from kdcache.reports.inputs import AnalysisInput, Inputs, RunInput
from kdcache.reports.sections.runs import figure
from kdcache.reports.words import counted, layer_text, number_text, share_text


def overview_section(inputs: Inputs) -> Section:
    """Verdicts first, then what was analysed."""
    blocks: list[Block] = []
    for each in inputs.analyses:
        blocks += [Heading(each.label)] if len(inputs.analyses) > 1 else []
        blocks += _verdict(each)
    if inputs.runs:
        blocks.append(Text(_best(inputs.runs), "" if inputs.analyses else "lead"))
    if inputs.analyses:
        blocks.append(_facts(inputs.analyses))
    if not blocks:
        blocks = [Text("No analysis and no training run: what caches hold.")]
    return Section("overview", "Overview", blocks)


def _verdict(each: AnalysisInput) -> list[Block]:
    found = each.analysis.diagnosis
    if found is None:
        return [
            Text(f"{each.label}: {_numbers(each)}", "lead"),
            Text("No diagnosis of a student: the analysis was given none.", "note"),
        ]
    verdict = found.paragraph
    for caution in found.cautions:
        verdict = verdict.removeprefix(f"Caution: {caution} ")
    # On the page each caution is a paragraph of its own: three of them in one hide the verdict.
    blocks: list[Block] = [*(Text(f"Caution: {caution}", "note") for caution in found.cautions), Text(verdict, "lead")]
    if found.rows:
        blocks.append(
            Table(
                (f"student {found.student}, layer {found.layer}", "value"),
                [Row(row) for row in found.rows],
                f"{each.label}: what the verdict rests on; one fixed linear map {found.fixed_map.replace('-', ' ')}.",
                has_words=True,
            )
        )
    if found.caveats:
        blocks.append(Details("What this does not say", [Bullets(found.caveats)]))
    return blocks


def _numbers(each: AnalysisInput) -> str:
    layers = each.analysis.layers
    if not layers:
        return "no layer was analysed."
    last = layers[-1]
    sentences = [f"{counted(len(layers), 'layer')}, the last {layer_text(last)} with {last.num_channels} channels."]
    if last.ranks is not None and "99" in last.ranks.per_image:
        own = last.ranks.per_image["99"].p99
        sentences.append(
            f"In its own basis {own:.0f} components explain 99 % of the energy of 99 in 100 images, "
            f"{share_text(own / last.ranks.max_rank)} of the {last.ranks.max_rank} possible"
        )
        if last.ranks.shared is not None and "99" in last.ranks.shared:
            shared = last.ranks.shared["99"].p99
            sentences[-1] += f"; in one basis for all it takes {shared:.0f} of {last.num_channels}"
        sentences[-1] += "."
    return " ".join(sentences)


def _best(runs: Sequence[RunInput]) -> str:
    text = f"{counted(len(runs), 'training run')}."
    known = {run.label: top1 for run in runs if (top1 := figure(run, "top1")) is not None}
    if known:
        best = max(known.values())
        names = " and ".join(label for label, top1 in known.items() if top1 == best)
        text += f" Highest top-1 after the last evaluation: {best:.2f} % ({names})."
    return text


def _facts(analyses: Sequence[AnalysisInput]) -> Table:
    facts = [_facts_of(each) for each in analyses]
    rows = [Row((name, *(each[name] for each in facts))) for name in facts[0]]
    return Table(("", *(each.label for each in analyses)), rows, "What was analysed.", has_words=True)


def _facts_of(each: AnalysisInput) -> dict[str, str]:
    analysis, source = each.analysis, each.analysis.source
    views = counted(source.num_views, "view")
    return {
        "source": f"{source.kind} {source.path}" + (f", sha256 {source.digest[:12]}…" if source.digest else ""),
        "teacher": source.teacher,
        "weights": source.weights,
        "images": f"{source.num_read} of {source.num_images} images of {source.data} read, {views} of each",
        "view recipe": _recipe(source),
        "layers": _layers(each),
        "date, device": f"{analysis.date}, {analysis.device}",
    }


def _recipe(source: SourceFacts) -> str:
    further = ", ".join(f"{name} {_rounded(value)}" for name, value in source.view.items())
    return source.view_recipe + (f": {further}" if further else "")


def _rounded(value: object) -> str:
    """``[0.75, 1.333]``: what a recipe draws from, to four digits."""
    if isinstance(value, list):
        return f"[{', '.join(map(_rounded, value))}]"
    return number_text(value) if isinstance(value, float) else str(value)


def _layers(each: AnalysisInput) -> str:
    names = [layer_text(layer) for layer in each.analysis.layers]
    return f"{len(names)}, from {names[0]} to {names[-1]}" if len(names) > 1 else "".join(names) or "none"
