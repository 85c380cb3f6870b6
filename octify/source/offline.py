"""Sources that are packages: import with the line that installs them, and work without downloads."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from octify.errors import SourceError

_OFFLINE = {"HF_HUB_OFFLINE": "1", "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
_TRUE = ("1", "ON", "YES", "TRUE")


def import_extra(name: str, extra: str) -> Any:
    """Import the package ``name``. Raises SourceError, with what to type, where it cannot be imported."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except Exception as error:
        # A torchvision built for another torch fails with a RuntimeError, not an ImportError.
        raise SourceError(
            f"{name.partition('.')[0]} cannot be imported",
            why=f"{type(error).__name__}: {error}",
            hint=f'pip install "octify[{extra}]"',
        ) from error


def refuse_downloads(package: str, options: Mapping[str, Any], names: Sequence[str]) -> None:
    """Raise SourceError for an option that asks for trained weights of the network."""
    for name in names:
        if options.get(name):
            raise SourceError(
                f"{package} would download for {name}={options[name]!r}",
                why="octify downloads nothing",
                hint=f"leave {name} out, and give the weights as a file: --weights FILE",
            )


@contextlib.contextmanager
def offline(package: str) -> Iterator[None]:
    """Run the block, code of ``package``, without access to hubs and without its warnings."""
    before = {name: os.environ.get(name) for name in _OFFLINE}
    os.environ.update(_OFFLINE)
    hub: Any = sys.modules.get("huggingface_hub.constants")
    was_offline = hub.HF_HUB_OFFLINE if hub else (before["HF_HUB_OFFLINE"] or "").upper() in _TRUE
    if hub is not None:  # it read the environment when it was imported
        hub.HF_HUB_OFFLINE = True
    try:
        with warnings.catch_warnings():
            # The user cannot act on deprecations inside the package's constructors.
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        loaded: Any = sys.modules.get("huggingface_hub.constants")
        if loaded is not None:
            loaded.HF_HUB_OFFLINE = was_offline


def failed(what: str, error: BaseException, hint: str | None = None) -> SourceError:
    """SourceError for ``what`` that a package could not build."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()] or [""]
    return SourceError(f"{what} cannot be built", why=f"{type(error).__name__}: {lines[0][:400]}", hint=hint)
