"""What a method is: a change of the student and the terms of its loss."""

import dataclasses
from dataclasses import dataclass, field
from typing import final

from kdcache.students.change import Change, Unchanged
from kdcache.terms.base import Term


@final
@dataclass(frozen=True, kw_only=True)
class Method:
    """A change of the student and the terms of its loss; named methods are presets of this.

    Args:
        name: Of the preset, or what the user calls it.
        terms: Summed with their weights; those of weight 0 are kept as settings only.
        change: Of the student.
    """

    name: str
    terms: tuple[Term, ...]
    change: Change = field(default_factory=Unchanged)

    def __post_init__(self) -> None:
        if not self.active:
            raise ValueError(f"method {self.name} has no term of a weight above 0, so there is nothing to train on")

    @property
    def active(self) -> tuple[Term, ...]:
        """The terms that are summed."""
        return tuple(term for term in self.terms if term.weight > 0)

    @property
    def needs_labels(self) -> bool:
        """Whether every image must have a label."""
        return any(term.needs().labels for term in self.active)

    @property
    def labels(self) -> list[str]:
        """A name for each active term, its own or numbered where several terms share it: ``tokens``, ``tokens-2``."""
        seen: dict[str, int] = {}
        found: list[str] = []
        for term in self.active:
            seen[term.name] = seen.get(term.name, 0) + 1
            found.append(term.name if seen[term.name] == 1 else f"{term.name}-{seen[term.name]}")
        return found

    def with_terms(self, terms: list[Term]) -> "Method":
        """The same with some terms in place of all those of their names; other names are added at the end.

        Raises: ValueError for a term of weight 0 that would leave out nothing.
        """
        names = {term.name for term in terms}
        for term in terms:
            if term.weight == 0 and all(each.name != term.name for each in self.terms):
                raise ValueError(
                    f"term {term.name} has weight 0 and method {self.name} has none, so it would be ignored"
                )
        kept: list[Term] = []
        for each in self.terms:
            if each.name not in names:
                kept.append(each)
            elif each.name not in {term.name for term in kept}:
                kept += [term for term in terms if term.name == each.name]
        kept += [term for term in terms if all(term.name != each.name for each in self.terms)]
        return dataclasses.replace(self, terms=tuple(kept))
