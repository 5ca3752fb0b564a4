"""How Sphinx builds the site: `sphinx-build -W -c docs . build/site`, from the repository's root, without a network.

The root is the source folder, so that one relative link works on the site and where the repository is browsed.
"""

import re
from typing import Any

import kdcache

project = "kdcache"
copyright = "the kdcache authors, Apache License 2.0"
version = release = kdcache.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinxcontrib.programoutput",
]
root_doc = "docs/index"
include_patterns = [
    "docs/**",
    "kdcache/*.md",
    "kdcache/**/*.md",
    "kernels/**/*.md",
    "benchmarks/*.md",
    "benchmarks/results/*.md",
    "examples/*.md",
    "*.md",
]
exclude_patterns = ["build", "README.md", "**/__pycache__"]

# Headings are targets of links, as where the repository is browsed.
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence", "deflist"]

# Docstrings are plain text with `names`; types stand in the signatures.
default_role = "literal"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Returns", "params_style")]

html_theme = "furo"
html_title = f"kdcache {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
copybutton_exclude = ".linenos, .gp, .go"
copybutton_prompt_text = r"\$ "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True
copybutton_line_continuation_character = "\\"

_ENTRY = re.compile(r"(?:Returns|Raises|Yields|Source): \S")


def _as_plain_text(app: Any, what: str, name: str, of: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text: stars and bars stand for themselves, and an entry may go on in an indented line."""
    inside = False
    for number, line in enumerate(lines):
        inside = bool(_ENTRY.match(line)) or (inside and line.startswith(" "))
        text = line.strip() if inside else line
        # Outside of ``names`` alone: every second part.
        parts = re.split(r"(`+[^`]*`+)", text)
        lines[number] = "".join(part if at % 2 else re.sub(r"([*|])", r"\\\1", part) for at, part in enumerate(parts))


def setup(app: Any) -> None:
    """Called by Sphinx."""
    # Before napoleon, which makes markup of sections.
    app.connect("autodoc-process-docstring", _as_plain_text, priority=400)
