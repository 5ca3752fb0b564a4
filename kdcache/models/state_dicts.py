"""Which of the tensors in a checkpoint are a model's weights, whatever wrapped them when they were saved."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor

from kdcache.errors import ModelError

# Wrappers leave these anywhere in a name: torch.compile, FSDP, activation checkpointing.
_INFIXES = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
# Leading components that a wrapper gives to all names; also what training scripts call the set of the weights.
_WRAPPERS = (
    "module", "model", "state_dict", "model_state_dict", "net", "network", "backbone", "encoder", "student", "teacher",
    "weights", "params", "ema", "trunk", "visual",
)  # fmt: skip
# Words by which averaged weights are known; DINO's teacher is the average of its student.
_AVERAGED = ("ema", "average", "averaged", "swa", "teacher", "target", "momentum")
_NOT_WEIGHTS = ("optimizer", "optimizers", "optimizer_states", "scheduler", "lr_schedulers", "scaler", "amp_scaler")
_DEEPEST = 4
# Two sets that fit this nearly as well as the best could each be meant.
_AS_GOOD = 0.9
# Below this fraction of the model's names a set is of another naming, which the architecture's filter may know.
_FITS = 0.5


@final
@dataclass(frozen=True)
class StateDict:
    """A set of weights in a checkpoint.

    Args:
        weights: By the model's own names where they could be told.
        name: Where it was, such as ``state_dict_ema`` or ``state_dict/model``; empty at the top.
        others: Names of the sets that fit as well.
        left_out: Names of tensors beside it, in the same dictionary.
    """

    weights: dict[str, Tensor]
    name: str
    others: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def note(self) -> str | None:
        """What was chosen, in a sentence; None where there was no choice."""
        parts = [f"took {self.name}, not {' or '.join(self.others)}"] if self.others else []
        if self.left_out:
            parts.append(f"left out {len(self.left_out)} tensors beside the model, such as {self.left_out[0]}")
        return "; ".join(parts) or None


def find_weights(value: Any, wanted: Mapping[str, Tensor], *, choice: str | None, where: str) -> StateDict:
    """Find a model's weights in a checkpoint.

    Args:
        value: What was read from the file.
        wanted: The model's own state: names and shapes are compared, values are not.
        choice: Name of the set to take; None takes the one that fits, and of averaged and raw weights the averaged.
        where: The file, for messages.

    Raises: ModelError where there are no tensors, no set of that name, or several models.
    """
    found = _all_sets(value, wanted)
    if choice is not None:
        found = [(fit, each) for fit, each in found if each.name == choice]
        if not found:
            names = sorted(each.name for _, each in _all_sets(value, wanted) if each.name)
            raise ModelError(
                f"{where}: holds no weights named {choice!r}; it holds {', '.join(names[:8]) or 'one set'}"
            )
    if not found:
        keys = ", ".join(map(str, list(value)[:4])) if isinstance(value, Mapping) else type(value).__name__
        raise ModelError(f"{where}: holds no tensors ({keys or 'nothing'}); wanted a state dict")
    best = max(fit for fit, _ in found)
    fitting = [each for fit, each in found if fit >= _AS_GOOD * best] if best else [found[0][1]]
    averaged = [each for each in fitting if _is_averaged(each.name)]
    taken = (averaged or fitting)[0]
    others = tuple(each.name for each in fitting if each is not taken)
    if len(averaged or fitting) > 1:
        names = " or ".join(each.name or "the top level" for each in fitting)
        raise ModelError(f"{where}: holds several sets of weights that fit: {names}; choose one with {where}:NAME")
    return StateDict(taken.weights, taken.name, others, taken.left_out)


def _all_sets(value: Any, wanted: Mapping[str, Tensor]) -> list[tuple[float, StateDict]]:
    return [each for name, tensors in _dictionaries(value) for each in _sets(name, tensors, wanted)]


def _dictionaries(value: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every dictionary with tensors under names, with the path to it."""
    if not isinstance(value, Mapping):
        return
    tensors = {key: each for key, each in value.items() if isinstance(key, str) and isinstance(each, Tensor)}
    if tensors:
        yield name, tensors
    if depth < _DEEPEST:
        for key, each in value.items():
            if isinstance(key, str) and key not in _NOT_WEIGHTS:
                yield from _dictionaries(each, f"{name}/{key}" if name else key, depth + 1)


def _sets(name: str, tensors: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> Iterator[tuple[float, StateDict]]:
    """The sets of weights in one dictionary, one for each prefix that fits; with the fraction of names they hold."""
    cleaned = {_without_infixes(key): each for key, each in tensors.items()}
    votes = Counter(prefix for key in cleaned for prefix in _prefixes(key, wanted))
    most = max(votes.values(), default=0)
    if most < _FITS * len(wanted):
        weights = _unwrapped(cleaned)
        yield most / len(wanted), StateDict(weights, name)
        return
    for prefix, count in votes.items():
        if count >= _AS_GOOD * most:
            weights = {key.removeprefix(prefix): each for key, each in cleaned.items() if key.startswith(prefix)}
            left_out = tuple(key for key in cleaned if not key.startswith(prefix))
            shown = "/".join(part for part in (name, prefix.rstrip(".")) if part) if _several(votes, most) else name
            yield count / len(wanted), StateDict(weights, shown, (), left_out)


def _several(votes: Counter[str], most: int) -> bool:
    return sum(count >= _AS_GOOD * most for count in votes.values()) > 1


def _prefixes(key: str, wanted: Mapping[str, Tensor]) -> Iterator[str]:
    """Every beginning of a name whose rest is a name of the model's."""
    start = 0
    while True:
        if key[start:] in wanted:
            yield key[:start]
        dot = key.find(".", start)
        if dot < 0:
            return
        start = dot + 1


def _without_infixes(key: str) -> str:
    for infix in _INFIXES:
        key = key.replace(infix, "")
    return key


def _unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without leading components that a wrapper gave to all of them."""
    while True:
        first = {key.partition(".")[0] for key in tensors}
        if len(first) != 1 or not first <= set(_WRAPPERS) or any("." not in key for key in tensors):
            return tensors
        tensors = {key.partition(".")[2]: each for key, each in tensors.items()}


def _is_averaged(name: str) -> bool:
    return any(word in _AVERAGED for part in name.split("/") for word in part.replace(".", "_").split("_"))
