"""One HTML page that needs nothing else: no network, no scripts, no files beside it."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

import kdcache
from kdcache.reports.blocks import Section
from kdcache.reports.inputs import Inputs
from kdcache.reports.sections.branches import branches_section
from kdcache.reports.sections.codecs import codecs_section
from kdcache.reports.sections.depth import depth_section
from kdcache.reports.sections.effective_rank import effective_rank_section
from kdcache.reports.sections.making import making_section
from kdcache.reports.sections.overview import overview_section
from kdcache.reports.sections.ranks import ranks_section
from kdcache.reports.sections.runs import runs_section
from kdcache.reports.sections.sep import sep_section
from kdcache.reports.sections.spectra import spectra_section
from kdcache.reports.sections.times import times_section
from kdcache.reports.sections.token_maps import token_maps_section

_TEMPLATES = Path(__file__).parent / "templates"


def render_page(inputs: Inputs, title: str) -> str:
    """The whole page. The same inputs give the same text.

    Args:
        inputs: What `kdcache.reports.inputs.read_inputs` found.
        title: Of the page.
    """
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("page.html")
    return template.render(title=title, sections=_sections(inputs), version=kdcache.__version__) + "\n"


def _sections(inputs: Inputs) -> list[Section]:
    analyses = inputs.analyses
    sections = (
        overview_section(inputs),
        ranks_section(analyses, inputs.runs),
        sep_section(analyses),
        depth_section(analyses),
        spectra_section(analyses),
        branches_section(analyses),
        effective_rank_section(analyses),
        token_maps_section(analyses),
        codecs_section(analyses, inputs.caches),
        runs_section(inputs.runs, inputs.caches),
        times_section(analyses, inputs.runs),
        making_section(inputs),
    )
    return [section for section in sections if section is not None]
