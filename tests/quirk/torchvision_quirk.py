"""Lets torchvision be imported where its compiled operators cannot be loaded.

A torchvision built for another flavour of torch (the index's CUDA build beside a CPU torch) skips its
compiled operators silently, and then fails on import: it registers fake kernels for ``torchvision::nms`` and
others that do not exist. The model definitions, all that the tests want, need none of them.

`install` registers an import hook; torch itself is imported only when torchvision is. While torchvision is
executed, ``torch.library.register_fake`` passes over ``torchvision::`` operators that do not exist. Where the
operators are there, nothing changes. This is for tests alone: octify itself never does such a thing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


class _TorchvisionFinder(MetaPathFinder):
    """Finds torchvision as the ordinary path finder does, and wraps the execution of its package."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "torchvision":
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            # The instance's own method is replaced, so that the loader keeps its type (resources, linecache).
            spec.loader.exec_module = _tolerantly(spec.loader)  # type: ignore[method-assign]
        return spec


def _tolerantly(loader: Loader) -> Callable[[ModuleType], None]:
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        import torch.library

        register_fake = torch.library.register_fake

        def tolerant(op: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(op, str) and op.startswith("torchvision::") and not _exists(op):
                return lambda function: function
            return register_fake(op, *args, **kwargs)

        torch.library.register_fake = tolerant
        try:
            execute(module)
        finally:
            torch.library.register_fake = register_fake

    return exec_module


def _exists(op: str) -> bool:
    import torch

    namespace, _, name = op.partition("::")
    return hasattr(getattr(torch.ops, namespace), name)


def install() -> None:
    """Put the hook first on ``sys.meta_path``; a second call does nothing."""
    if not any(isinstance(finder, _TorchvisionFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _TorchvisionFinder())
