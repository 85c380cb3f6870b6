"""The function that judges a model: from a file, or as Python passes it."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from octify.errors import OctifyError
from octify.source.execute import run_file

if TYPE_CHECKING:
    from torch import nn

FORM = "file.py:function, a function of the model that returns a number or a dict of numbers"


@dataclass(frozen=True)
class Metric:
    """A function of a model, which is in eval mode, to a number or a dict of numbers.

    name:
        Name in reports, such as ``evaluate.py:accuracy``.
    lower:
        Whether smaller values are better.
    """

    function: Callable[[nn.Module], Any]
    name: str
    lower: bool = False

    @property
    def key(self) -> str:
        """Name of the value of a function that returns a single number."""
        return self.name.rpartition(":")[2]

    @property
    def where(self) -> str | None:
        """``file:line`` of the definition; None for a function without Python code."""
        code = _code(self.function)
        return None if code is None else f"{code.co_filename}:{code.co_firstlineno}"

    @property
    def file(self) -> Path | None:
        """File of the definition, if there is one."""
        code = _code(self.function)
        path = None if code is None else Path(code.co_filename)
        return path if path is not None and path.is_file() else None

    @property
    def module(self) -> ModuleType:
        """Stand-in for its module: the folder of its file is that of the user's code."""
        module = ModuleType(self.name)
        module.__file__ = None if self.file is None else str(self.file)
        return module


def check_metric(text: str) -> None:
    """Validate the name of a metric before any long work. Raises OctifyError."""
    place, colon, name = text.rpartition(":")
    if not (colon and place.endswith(".py") and name):
        whole = text if text.endswith(".py") else "file.py"
        raise OctifyError(
            f"which function is the metric {text}?", why=f"a metric is {FORM}", hint=f"--metric {whole}:NAME"
        )
    if not Path(place).is_file():
        what = "it is a folder" if Path(place).is_dir() else "there is no such file"
        raise OctifyError(f"no metric {text}: {place} cannot be read", why=what, hint=f"a metric is {FORM}")


def load_metric(text: str, *, lower: bool = False) -> Metric:
    """Execute the file that ``text`` (``file.py:function``) names, and return its function.

    Raises OctifyError when there is no such file or function, the file fails, or the function does not take
    one argument.
    """
    check_metric(text)
    place, _, name = text.rpartition(":")
    value: Any = run_file(place)
    module = value
    for part in name.split("."):
        if not hasattr(value, part):
            raise _missing(module, place, name)
        value = getattr(value, part)
    return metric_of(value, text, lower=lower)


def metric_of(function: Any, name: str | None = None, *, lower: bool = False) -> Metric:
    """Check that ``function`` can be called with a model. Raises OctifyError."""
    own = str(getattr(function, "__name__", type(function).__name__))
    metric = Metric(function, own if name is None else name, lower)
    if isinstance(function, type) or not callable(function):
        raise OctifyError(
            f"the metric {metric.name} is {_kind(function)}, not a function",
            hint=f"def {metric.key}(model): ... return a number; larger is better",
        )
    try:
        inspect.signature(function).bind(None)
    except TypeError as error:
        raise OctifyError(
            f"the metric {metric.name} cannot be called with one argument, the model",
            where=metric.where,
            why=str(error),
            hint=f"def {metric.key}(model): ...",
        ) from None
    except ValueError:  # a function from C has no signature: only a call shows
        pass
    return metric


def _kind(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"


def _missing(module: ModuleType, place: str, name: str) -> OctifyError:
    functions = [key for key, value in vars(module).items() if inspect.isfunction(value) and key[0] != "_"]
    close = difflib.get_close_matches(name, functions, n=1) or functions[:1]
    return OctifyError(
        f"there is no {name!r} in {place}",
        why=f"it has {', '.join(functions[:8])}" if functions else "it defines no function",
        hint=f"--metric {place}:{close[0]}" if close else f"def {name}(model): ... return a number",
    )


def _code(function: Any) -> Any:
    """Code object behind decorators, ``functools.partial`` and ``__call__``; None where there is none."""
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function) if callable(function) else function
    own = getattr(function, "__code__", None)
    return own or getattr(vars(type(function)).get("__call__"), "__code__", None)
