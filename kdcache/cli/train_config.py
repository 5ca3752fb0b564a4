"""From the flags of `kdcache train` and `kdcache sweep` to the run they say."""

import argparse
import inspect
from collections.abc import Callable
from dataclasses import replace
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
    """The run that the flags say. Raises: UsageError."""
    from kdcache.train.config import RunConfig

    changes: dict[str, Any] = {}
    for name in ("student", "student_weights", "epochs", "batch_size", "seed", "device", "tensorboard"):
        if getattr(arguments, name) is not None:
            changes[name] = getattr(arguments, name)
    if arguments.student_kwargs is not None:
        changes["student_kwargs"] = parse_pairs(arguments.student_kwargs, "--student-kwargs")
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


def _checked(settings: list[str]) -> list[str]:
    for setting in settings:
        if setting.startswith("method") and not setting.startswith("method.change."):
            raise UsageError(f"--set {setting}: choose a method and its settings with --method, a term's with --term")
    return settings


def _method(arguments: argparse.Namespace, method: "Method | None") -> "Method | None":
    """The method as --method, --change and --term say it, from that of a recipe where there is one."""
    text, terms = arguments.method, arguments.terms
    if text is not None:
        name, values = parse_call(text, "--method")
        preset = load_method(name)
        given = keywords(preset, values, f"--method {text}")
        method = preset(**given)
        _refuse_ignored(preset, given, method, text)
    if method is not None and arguments.change is not None:
        method = replace(method, change=_change(arguments.change))
    if method is None or not terms:
        return method
    return method.with_terms([_term(each, method) for each in terms])


def _change(text: str) -> "Change":
    """A change of the student from the command line."""
    name, values = parse_call(text, "--change")
    kind = load_change(name)
    try:
        return kind(**keywords(kind, values, f"--change {text}"))
    except ValueError as error:
        raise UsageError(f"--change {text}: {error}") from None


def _refuse_ignored(preset: "Callable[..., Method]", given: dict[str, Any], method: "Method", text: str) -> None:
    """Refuse settings of a method that change nothing, because their term has weight 0."""
    defaults = inspect.signature(preset).parameters
    for key in given:
        other = preset(**{name: value for name, value in given.items() if name != key})
        if given[key] != defaults[key].default and (other.active, other.change) == (method.active, method.change):
            raise UsageError(f"--method {text}: {key} would be ignored, its term has weight 0")


def _term(text: str, method: "Method") -> "Term":
    """A term from the command line; keys that are not given are those of the method's own term of that name."""
    name, values = parse_call(text, "--term")
    kind = load_term(name)
    given = keywords(kind, values, f"--term {text}")
    own = [term for term in method.terms if term.name == name]
    try:
        return replace(own[0], **given) if len(own) == 1 else kind(**given)  # pyright: ignore[reportCallIssue, reportArgumentType]
    except ValueError as error:
        raise UsageError(f"--term {text}: {error}") from None
