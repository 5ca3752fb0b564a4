"""Triton kernels, one a file, each with its launch. Imported only when one is launched or compiled.

What a module offers, beside its kernel and ``launch(..., **settings)``:

``cases() -> Iterable[Case]``
    What ``python -m kdcache_kernels.lint`` compiles: the formats and widths that matter, with the settings that the
    table of sm_90 holds. The kernel's name in the tables is the name of its module.

For ``python -m kdcache_kernels.tune``, which writes ``tables/<arch>.json``:

``WIDTHS: dict[str, int]``
    Rows of the table, and the width each is decided at: ``{"192": 192, "384": 384}``, or ``{"*": 1024}`` where one row
    serves every width.
``candidates(width: int) -> list[dict[str, int]]``
    Settings for ``launch``, best guess first. What only one format needs is a setting of its own name, because a row
    serves all formats: ``{"num_stages": 3, "num_stages_converted": 1}``. The interpreter takes ``INTERPRETED`` where
    the module has it, else the first.
``case(width: int, settings: Mapping[str, int]) -> list[Case]``
    What those settings compile to, one case a format. A candidate counts as clean when none of them has a fault.
``timing(width: int, settings: Mapping[str, int], device: torch.device) -> Callable[[], None]``
    One launch at a size worth timing, on inputs made beforehand. Called only on a GPU of the wanted architecture.
"""
