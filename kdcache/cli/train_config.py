"""Read a run from the flags of `kdcache train` and `kdcache sweep`."""

import argparse
import inspect
from collections.abc import Callable
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from kdcache.config import apply_settings, keywords, parse_call, parse_pairs
from kdcache.errors import UsageError
from kdcache.methods import load_method
from kdcache.recipes import load_recipe
from kdcache.students import load_change
from kdcache.terms import load_term

if TYPE_CHECKING:
    from kdcache.methods.base import Method
    from kdcache.students.change import Change
    from kdcache.terms.base import Term
    from kdcache.train.config import RunConfig


def read_config(arguments: argparse.Namespace) -> "RunConfig":
    """Read a run from the flags. Raises: UsageError."""
    from kdcache.train.config import RunConfig

    changes: dict[str, Any] = {}
    for name in ("student", "student_weights", "epochs", "batch_size", "seed", "device", "tensorboard"):
        if getattr(arguments, name) is not None:
            changes[name] = getattr(arguments, name)
    if arguments.student_kwargs is not None:
        changes["student_kwargs"] = parse_pairs(arguments.student_kwargs, "--student-kwargs")
    if arguments.student is not None:
        changes |= _named_student(changes)
    try:
        recipe: RunConfig | None = None if arguments.recipe is None else load_recipe(arguments.recipe)()
        method = _method(arguments, None if recipe is None else recipe.method)
        if recipe is not None:
            config = replace(recipe, **changes, method=method)
        elif "student" in changes and method is not None:
            config = RunConfig(**changes, method=method)
        else:
            raise UsageError("give --student and --method, or a recipe (`kdcache train --recipes` lists them)")
    except ValueError as error:
        raise UsageError(str(error)) from None
    groups = {
        "data.source": arguments.data,
        "data.codec": arguments.codec,
        "data.per_class": arguments.per_class,
        "data.per_class_seed": arguments.per_class_seed,
        "eval.data": arguments.eval_data,
    }
    given = [f"{name}={value}" for name, value in groups.items() if value is not None]
    config = apply_settings(config, given + _checked(arguments.settings))
    if arguments.teacher == "online":
        config = replace(config, online=True)
    if arguments.teacher_weights and not config.online:
        raise UsageError("--teacher-weights would be ignored: no teacher is loaded; give --teacher online as well")
    return config


def without_logits(arguments: argparse.Namespace, config: "RunConfig") -> "tuple[RunConfig, str]":
    """The run on labels and features alone, where its method also reads logits that nobody asked for or cached.

    Args:
        arguments: The flags.
        config: What they say.

    Returns: the run, and what to say about it; empty where it is the same.
    """
    terms = config.method.active
    if arguments.recipe is not None or all(term.name != "logits" for term in terms):
        return config, ""
    name, values = parse_call(arguments.method, "--method")
    is_asked = bool({"logit_weight", "temperature"} & values.keys()) or any(
        parse_call(text, "--term")[0] == "logits" for text in arguments.terms
    )
    if is_asked or not any(term.needs().teacher for term in terms if term.name != "logits"):
        return config, ""
    from kdcache.cache.cache import open_cache

    if any(column.kind == "logits" for column in open_cache(arguments.cache).columns):
        return config, ""
    method = _method(arguments, None, logit_weight=0.0)
    assert method is not None, "it was made of these flags"
    note = f"the cache holds no logits: method {name} trains on labels and features (logit_weight=0)"
    return replace(config, method=method), note


def _named_student(given: dict[str, Any]) -> dict[str, Any]:
    """A student's plain name, arguments and weights, where it is called by a name on the hub or by a folder."""
    from kdcache.models.names import is_elsewhere, resolve_name

    if not is_elsewhere(given["student"]):
        return {}
    found = resolve_name(given["student"])
    # Classes and size are those of the run.
    kwargs = {name: value for name, value in found.model.kwargs.items() if name not in ("num_classes", "img_size")}
    changes: dict[str, Any] = {"student": found.model.name}
    if kwargs:
        changes["student_kwargs"] = {**kwargs, **given.get("student_kwargs", {})}
    if given.get("student_weights") == "hub" and found.weights is not None:
        changes["student_weights"] = str(found.weights)
    return changes


def _checked(settings: list[str]) -> list[str]:
    for setting in settings:
        if setting.startswith("method") and not setting.startswith("method.change."):
            raise UsageError(f"--set {setting}: choose a method and its settings with --method, a term's with --term")
    return settings


def _method(arguments: argparse.Namespace, method: "Method | None", **settings: Any) -> "Method | None":
    """Build the method from --method, --change and --term, starting from a recipe's where there is one.

    `settings` come in addition to those of --method.
    """
    text, terms = arguments.method, arguments.terms
    if text is not None:
        name, values = parse_call(text, "--method")
        preset = load_method(name)
        given = {**keywords(preset, values, f"--method {text}"), **settings}
        method = preset(**given)
        if arguments.change is not None:
            _refuse_replaced(method, given, text, arguments.change)
        _refuse_ignored(preset, given, method, text)
    if method is not None and arguments.change is not None:
        method = replace(method, change=_change(arguments.change))
    if method is None or not terms:
        return method
    return method.with_terms([_term(each, method) for each in terms])


def _change(text: str) -> "Change":
    """Build a change of the student from the command line."""
    name, values = parse_call(text, "--change")
    kind = load_change(name)
    try:
        return kind(**keywords(kind, values, f"--change {text}"))
    except ValueError as error:
        raise UsageError(f"--change {text}: {error}") from None


def _refuse_replaced(method: "Method", given: dict[str, Any], text: str, change: str) -> None:
    """Refuse settings of the method's own change of the student, where --change replaces it."""
    if lost := sorted(given.keys() & _fields(method.change)):
        raise UsageError(
            f"--method {text}: {', '.join(lost)} would be ignored: --change {change} replaces the change they belong "
            "to; give them to --change"
        )


def _refuse_ignored(preset: "Callable[..., Method]", given: dict[str, Any], method: "Method", text: str) -> None:
    """Refuse settings of a term of weight 0, without which the method is the same."""
    defaults = inspect.signature(preset).parameters
    for key, value in given.items():
        # Also where the method chooses this value without it, as that of a rank.
        held = key in _fields(method.change) and getattr(method.change, key) == value
        if held or value == defaults[key].default:
            continue
        try:
            other = preset(**{name: each for name, each in given.items() if name != key})
        except ValueError:  # another setting needs this one
            continue
        if (other.active, other.change) == (method.active, method.change):
            raise UsageError(f"--method {text}: {key} would be ignored: its term has weight 0")


def _fields(change: "Change") -> set[str]:
    """Names of a change's settings; a method's settings of these names are those of its change."""
    return {field.name for field in fields(change)}


def _term(text: str, method: "Method") -> "Term":
    """Build a term from the command line; keys that are not given are those of the method's own term of that name."""
    name, values = parse_call(text, "--term")
    kind = load_term(name)
    given = keywords(kind, values, f"--term {text}")
    own = [term for term in method.terms if term.name == name]
    try:
        return replace(own[0], **given) if len(own) == 1 else kind(**given)
    except ValueError as error:
        raise UsageError(f"--term {text}: {error}") from None
