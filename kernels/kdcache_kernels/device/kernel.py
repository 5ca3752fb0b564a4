"""What a device file offers about its kernel to the lint, to the tuning and to the tables."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

import torch

from kdcache_kernels.device.case import Case, Work

Settings = Mapping[str, int]


@final
@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One kernel, or a few that are launched together, as ``kdcache_kernels.lint`` and ``kdcache_kernels.tune`` see it.

    Args:
        name: Its name in the tables.
        launch: What runs it; it takes a row of the table.
        widths: Rows of the table, and the width each is decided at: ``{"192": 192, "384": 384}``, or ``{"*": 1024}``
            where one row serves every width.
        candidates: Settings for a width, best guess first. What only one format needs is a setting of its own name,
            because a row serves all formats: ``{"num_stages": 3, "num_stages_converted": 1}``.
        case: What settings compile to at a width, one case a format. A candidate is clean when no case has a fault.
        cases: What the lint compiles: the formats and widths that matter, with the settings of Hopper's table.
        timing: One launch at a size worth timing, on inputs made beforehand; called only on a GPU.
        interpreted: The interpreter's settings; None for the first candidate.
        work: What a launch has to do, from the numbers that it was given, by the jitted function's name.
    """

    name: str
    launch: Callable[..., Any]
    widths: Mapping[str, int]
    candidates: Callable[[int], list[dict[str, int]]]
    case: Callable[[int, Settings], list[Case]]
    cases: Callable[[], Iterable[Case]]
    timing: Callable[[int, Settings, torch.device], Callable[[], object]]
    interpreted: Settings | None = None
    work: Mapping[str, Callable[[Settings], Work]] = field(default_factory=dict)

    @property
    def module(self) -> str:
        """Importable name of the file that holds it, as ``KERNEL``."""
        return self.cases.__module__
