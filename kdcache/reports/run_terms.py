"""What a run trained on, from its folder: terms of its loss, their settings, and what was logged of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdcache.reports.inputs import RunInput

# Terms that read no tokens; every other one is a feature term.
_WITHOUT_TOKENS = ("cross-entropy", "logits")
# What the loop logs of a step besides one number for each term.
_NOT_TERMS = ("kind", "step", "epoch", "lr", "loss", "images_per_s", "stall_share")


@dataclass(frozen=True)
class RunTerm:
    """One term of a finished run's loss, as its summary has it.

    Args:
        label: Unique in the run: its name, numbered where several terms share it.
        name: The term.
        loss: Unweighted, mean over the last epoch's logged steps; None where it is not known.
        columns: What it read, ``group/column``.
        student_taps: Where it read the student.
        settings: Its own settings.
    """

    label: str
    name: str
    loss: float | None
    columns: list[str]
    student_taps: list[str]
    settings: dict[str, Any]


def feature_terms(run: RunInput) -> list[RunTerm]:
    """The terms on tokens of a finished run."""
    found: Any = (run.summary or {}).get("terms", [])
    return [
        RunTerm(
            label=str(each.get("label", each["name"])),
            name=each["name"],
            loss=each.get("loss"),
            columns=list(each.get("columns", [])),
            student_taps=list(each.get("student_taps", [])),
            settings=dict(each.get("settings", {})),
        )
        for each in found
        if reads_tokens(each)
    ]


def reads_tokens(term: Mapping[str, Any]) -> bool:
    """Whether a term, of a configuration or a summary, is on tokens."""
    return term.get("name") not in _WITHOUT_TOKENS


def method_of(run: RunInput) -> dict[str, Any]:
    """The method in a run's configuration; empty where there is none."""
    config = run.record.get("config")
    method = config.get("method") if isinstance(config, dict) else None
    return method if isinstance(method, dict) else {}


def configured_terms(run: RunInput) -> list[dict[str, Any]]:
    """The terms in a run's configuration that were summed: those of weight 0 are settings only."""
    terms = method_of(run).get("terms", [])
    return [term for term in terms if isinstance(term, dict) and term.get("weight") != 0]


def logged_terms(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """Labels of the terms in lines of step metrics, in the order in which they appear."""
    return [name for name in dict.fromkeys(key for step in steps for key in step) if name not in _NOT_TERMS]
