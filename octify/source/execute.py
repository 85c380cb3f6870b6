"""Execution of a user's code: model files, and error messages with the line in the user's code."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from octify.errors import SourceError
from octify.storage.hold import Terminated


def run_file(place: str) -> ModuleType:
    """Execute the Python file ``place`` as a module of its own, with its folder on the import path."""
    path = Path(place).resolve()
    spec = importlib.util.spec_from_file_location(_module_name(path), path)
    if spec is None or spec.loader is None:
        raise SourceError(f"{place} is not a Python file", hint="MODEL is file.py or file.py:name")
    module = importlib.util.module_from_spec(spec)
    # Registered, as an import would: dataclasses and pickling look their module up by name.
    sys.modules[spec.name] = module
    with running(module, place):
        spec.loader.exec_module(module)
    return module


def import_module(name: str) -> ModuleType:
    """Import the module ``name``; the current folder counts, as with ``python -m``."""
    with _importable(Path.cwd()):
        try:
            exists = importlib.util.find_spec(name) is not None
        except ModuleNotFoundError:
            exists = False
        except Exception as error:  # a parent package's own code failed
            raise _failure(error, name, Path.cwd()) from error
        if not exists:
            raise SourceError(
                f"there is no Python module {name}",
                why=f"looked in {Path.cwd()} and in the environment octify runs in",
                hint="check the name, or give the file: path/to/model.py:NAME",
            )
        try:
            return importlib.import_module(name)
        except (Terminated, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise _failure(error, name, Path.cwd()) from error


@contextlib.contextmanager
def running(module: ModuleType, what: str) -> Iterator[None]:
    """Run the block with ``module``'s folder on the import path; failures become SourceErrors."""
    folder = Path(module.__file__ or ".").resolve().parent
    with _importable(folder):
        try:
            yield
        except (SourceError, Terminated, KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # a model file that exits is as unusable as one that raises
            raise _failure(error, what, folder) from error


def user_line(error: BaseException, folder: Path) -> str | None:
    """Return ``file:line`` of the innermost frame of ``error`` in the user's code under ``folder``."""
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    mine = [frame for frame in frames if _is_users(frame.filename, folder)]
    return f"{mine[-1].filename}:{mine[-1].lineno}" if mine else None


def _is_users(filename: str, folder: Path) -> bool:
    path = Path(filename)
    # A virtual environment inside the project folder is not the user's own code.
    return path.is_relative_to(folder) and "site-packages" not in path.parts


def _failure(error: BaseException, what: str, folder: Path) -> SourceError:
    return SourceError(
        f"{what} failed to run",
        where=user_line(error, folder),
        why=_reason(error),
        hint=_hint(error),
    )


def _reason(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        line = (error.text or "").strip()
        return f"{type(error).__name__}: {error.msg}" + (f": {line}" if line else "")
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _hint(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"install {error.name.partition('.')[0]} in the environment octify runs in ({sys.prefix})"
    return "correct the code there; --debug shows the whole traceback"


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Put ``folder`` first on the import path for the block, as ``python folder/model.py`` would."""
    entry = str(folder)
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(entry)


def _module_name(path: Path) -> str:
    """A module name that cannot shadow an installed package called like the file."""
    return f"octify_model_{abs(hash(path)):x}_{path.stem}"
