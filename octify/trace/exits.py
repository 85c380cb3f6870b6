"""A model whose code ends the program: ``sys.exit()`` in a forward is an error of that model."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from octify.errors import TraceError
from octify.storage.hold import Terminated
from octify.trace.asked import is_the_models


@contextmanager
def no_exit() -> Iterator[None]:
    """Raise TraceError, with the module and the line, where the code of a model raises SystemExit."""
    try:
        yield
    except Terminated:  # by a signal: it is meant
        raise
    except SystemExit as error:
        frames = [each for each in traceback.walk_tb(error.__traceback__) if is_the_models(each[0])]
        if not frames:
            raise
        frame, line = frames[-1]
        path = _path([each.f_locals.get("self") for each, _ in traceback.walk_tb(error.__traceback__)])
        raise TraceError(
            "the model's code ends the program",
            where=f"{frame.f_code.co_filename}:{line}" + (f", in {path}" if path else ""),
            why=f"it calls sys.exit({'' if error.code is None else repr(error.code)})",
            hint="let the model raise an exception, or return, instead",
        ) from None


def _path(running: list[object]) -> str:
    """The path of the innermost of the modules that are ``running`` in the outermost that has it."""
    modules = [each for each in running if isinstance(each, nn.Module)]
    for root in modules:
        paths: dict[int, str] = {id(module): path for path, module in root.named_modules()}
        if len(paths) > 1 and id(modules[-1]) in paths:
            return paths[id(modules[-1])]
    return ""
