"""Check of a call with arguments: the callable makes models, and takes such arguments."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

from torch import nn

from octify.errors import SourceError
from octify.source.arguments import CallArguments

# Functions of these read files and programs of any kind, or install them: none makes a model from literals.
_REFUSED = {"torch", "numpy", "pip", "setuptools", "joblib", "pickle", "runpy"} | set(sys.stdlib_module_names)


def check_call(function: Callable[..., Any], arguments: CallArguments, where: str) -> None:
    """Raise SourceError unless ``function`` is a module's class or a package's function, and takes these.

    The arguments come from a command line or a run file: they must not reach ``os.system`` or ``torch.load``.
    """
    if inspect.isclass(function):
        if not issubclass(function, nn.Module):
            raise SourceError(
                f"{where} is a class, but not an nn.Module", hint="name a subclass of nn.Module"
            )
    elif not inspect.isroutine(function) or inspect.isbuiltin(function) or _owner(function) in _REFUSED:
        raise SourceError(
            f"{where} is not called with arguments",
            why=f"it is part of {_owner(function)}, which has no functions that make models",
            hint="name a subclass of nn.Module, or a function of yours that returns a model",
        )
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*arguments.positional, **arguments.keywords)
    except TypeError as error:
        raise SourceError(
            f"{where} does not take {arguments.text[:200]}",
            why=f"{error}: its parameters are {', '.join(signature.parameters) or 'none'}",
        ) from None


def _owner(function: Callable[..., Any]) -> str:
    """Top-level package that defines ``function``, seen through decorators."""
    inner = inspect.unwrap(function)
    return str(getattr(inner, "__module__", None) or type(inner).__module__).partition(".")[0]
