"""Selection of the object in a module that is the model, and its construction."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from torch import nn

from octify.errors import SourceError
from octify.source.arguments import NONE, CallArguments
from octify.source.callables import check_call
from octify.source.execute import running

FACTORIES = ("build_model", "get_model", "create_model")


@dataclass(frozen=True)
class NamedModel:
    """Model, or a callable that returns one, and the target that names it (``file.py:name``)."""

    value: Any
    where: str


def named_candidate(module: ModuleType, place: str, name: str) -> NamedModel:
    """Look up ``name`` (dots allowed) in ``module``. Raises SourceError, which lists the alternatives."""
    value: Any = module
    for part in name.split("."):
        if not hasattr(value, part):
            raise _no_such_name(module, place, name)
        value = getattr(value, part)
    return NamedModel(value, f"{place}:{name}")


def default_candidate(module: ModuleType, place: str) -> NamedModel:
    """The model of a module without a name: ``model``, else a factory, else its only buildable class."""
    model = getattr(module, "model", None)
    if isinstance(model, nn.Module) or (callable(model) and not missing_arguments(model)):
        return NamedModel(model, f"{place}:model")
    factories = [name for name in FACTORIES if callable(getattr(module, name, None))]
    ready = [name for name in factories if not missing_arguments(getattr(module, name))]
    names = ready or [name for name in _own_classes(module) if not missing_arguments(getattr(module, name))]
    if len(names) == 1:
        return NamedModel(getattr(module, names[0]), f"{place}:{names[0]}")
    if names:
        raise SourceError(
            f"{place} has several models to choose from",
            why="any of these could be meant:\n" + _listed([f"{place}:{name}" for name in names]),
            hint=f"name one: {place}:{names[0]}",
        )
    raise _no_model(module, place, factories)


def make_model(candidate: NamedModel, module: ModuleType, arguments: CallArguments = NONE) -> nn.Module:
    """Return the candidate, or the result of calling it. Raises SourceError if that is not an nn.Module."""
    value = candidate.value
    if isinstance(value, nn.Module) and not arguments:
        return value
    if isinstance(value, nn.Module) or not callable(value):
        raise SourceError(
            f"{candidate.where} is a {type(value).__name__}, not a model"
            if not isinstance(value, nn.Module)
            else f"{candidate.where} is a model already, and takes no arguments",
            hint="name an nn.Module, a subclass of it, or a function that returns one",
        )
    if arguments:
        check_call(value, arguments, candidate.where)
    elif missing := missing_arguments(value):
        raise _needs_arguments(candidate.where, missing)
    called = f"{candidate.where}{arguments.text or '()'}"
    with running(module, called):
        model = value(*arguments.positional, **arguments.keywords)
    if not isinstance(model, nn.Module):
        raise SourceError(
            f"{called} returned a {type(model).__name__}, not an nn.Module",
            hint="let the function return the model itself",
        )
    return model


def missing_arguments(function: Callable[..., Any]) -> list[str]:
    """Names of the required arguments of a callable."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a callable from C has no signature: only a call shows
        return []
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in optional]


def _own_classes(module: ModuleType) -> list[str]:
    """The nn.Module subclasses defined (not imported) in ``module``, in the order of the file."""
    return [
        name
        for name, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, nn.Module) and value.__module__ == module.__name__
    ]


def _usable_names(module: ModuleType) -> list[str]:
    models = [name for name, value in vars(module).items() if isinstance(value, nn.Module)]
    factories = [name for name in FACTORIES if callable(getattr(module, name, None))]
    return [*models, *factories, *_own_classes(module)]


def _no_such_name(module: ModuleType, place: str, name: str) -> SourceError:
    names = _usable_names(module)
    close = difflib.get_close_matches(name, list(vars(module)), n=1) or names[:1]
    return SourceError(
        f"there is no {name!r} in {place}",
        why="it has these models:\n" + _listed([f"{place}:{other}" for other in names]) if names else None,
        hint=f"{place}:{close[0]}" if close else "name an nn.Module or a function that returns one",
    )


def _no_model(module: ModuleType, place: str, factories: list[str]) -> SourceError:
    for name in [*factories, *_own_classes(module)]:
        return _needs_arguments(f"{place}:{name}", missing_arguments(getattr(module, name)))
    return SourceError(
        f"there is no model in {place}",
        why=f"it has no `model`, no {', '.join(FACTORIES)}, and defines no nn.Module class",
        hint="def build_model(): return MyNet(...)   or name something else in it: " + f"{place}:NAME",
    )


def _needs_arguments(where: str, missing: list[str]) -> SourceError:
    name = where.rpartition(":")[2]
    example = ", ".join(f"{argument}=..." for argument in missing)
    return SourceError(
        f"{where} cannot be called without arguments",
        where=where,
        why=f"it needs {', '.join(missing)}",
        hint=f"'{where}({example})', or add to the file: def build_model(): return {name}({example})",
    )


def _listed(lines: list[str], most: int = 8) -> str:
    more = [f"... and {len(lines) - most} more"] if len(lines) > most else []
    return "\n".join(lines[:most] + more)
