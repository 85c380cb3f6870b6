"""A device that is not there: tensors that say they are on ``cuda:0`` and are computed on the CPU.

Inside ``other_device()`` a tensor that was made with ``device="cuda"``, moved there, or computed from one
that is there, names that device, and an operation on two devices fails as it would on real ones. So the
default suite sees, on any machine, whether a calculation stays on its model's device.

As in PyTorch, tensors without dimensions may mix, and indices may lie on the CPU. Kernels are the CPU's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

OTHER = torch.device("cuda:0")
_INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index")
_BETWEEN = ("copy_", "set_")  # operators that take tensors of two devices
_HOST = ("numpy", "__array__")


class Places:
    """Which tensors are on the other device: by storage; storages are kept, or addresses were used again."""

    def __init__(self) -> None:
        self._kept: dict[int, Any] = {}
        self.moving = False

    def has(self, x: Any) -> bool:
        return isinstance(x, Tensor) and x.untyped_storage()._cdata in self._kept

    def put(self, result: Any) -> Any:
        """``result`` with all its tensors over there."""
        for x in tree_leaves(result):
            if isinstance(x, Tensor):
                storage = x.untyped_storage()
                self._kept[storage._cdata] = storage
        return result

    def moved(self, x: Tensor, there: bool) -> Tensor:
        """``x`` itself if it is where it should be, else a copy that is."""
        if self.has(x) == there:
            return x
        self.moving = True
        try:
            copied = x.clone()
        finally:
            self.moving = False
        found: Tensor = self.put(copied) if there else copied
        return found


class _Operators(TorchDispatchMode):
    """What is computed from a tensor over there is over there, and nothing is computed from two devices."""

    def __init__(self, places: Places) -> None:
        super().__init__()
        self.places = places

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.places.moving:
            return func(*args, **kwargs)
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        there = [self.places.has(x) for x in given]
        name = func.overloadpacket.__name__
        if name in _BETWEEN or not any(there):
            return func(*args, **kwargs)
        here = [x for x, is_there in zip(given, there, strict=True) if not is_there and x.ndim]
        if here and not (name in _INDEXING and there[0]):
            raise RuntimeError(f"Expected all tensors to be on the same device: {func}")
        return self.places.put(func(*args, **kwargs))


class _Calls(TorchFunctionMode):
    """Devices as programs name them and ask for them."""

    def __init__(self, places: Places) -> None:
        super().__init__()
        self.places = places

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        places, name = self.places, getattr(func, "__name__", "")
        if func == Tensor.device.__get__:  # type: ignore[attr-defined]
            return OTHER if places.has(args[0]) else func(*args, **kwargs)
        if func == Tensor.is_cuda.__get__:  # type: ignore[attr-defined]
            return places.has(args[0])
        if name in ("cpu", "cuda"):
            return places.moved(args[0], name == "cuda")
        if name in ("to", "type_as"):
            return self._to(args[0], args[1:], kwargs)
        if name in _HOST and places.has(args[0]):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
        copied = name == "__deepcopy__" and places.has(args[0])  # of a storage, which no operator makes
        named = any(map(_is_other, tree_leaves((args, kwargs))))
        if not named or name == "_parse_to":  # which reads the arguments of ``Module.to``
            result = func(*args, **kwargs)
            new = name.startswith("new_") and places.has(args[0])
            return places.put(result) if copied or new else result
        if isinstance(kwargs.get("generator"), torch.Generator):
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        args, kwargs = tree_map(lambda leaf: "cpu" if _is_other(leaf) else leaf, (args, kwargs))
        return places.put(func(*args, **kwargs))

    def _to(self, x: Tensor, rest: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """``x.to(...)``, ``x.type_as(y)``: to another device by a copy, to another dtype as ever."""
        there = self.places.has(x)
        plain: list[Any] = []
        for value in (*rest, *(kwargs.pop(key) for key in ("device", "other") if key in kwargs)):
            if isinstance(value, Tensor):
                there = self.places.has(value)
                plain.append(value.dtype)
            elif isinstance(value, (torch.device, str)):
                there = torch.device(value).type == "cuda"
            elif isinstance(value, torch.dtype):
                plain.append(value)
        found = self.places.moved(x, there)
        return found.to(*plain, **kwargs) if plain or kwargs else found


def _is_other(leaf: Any) -> bool:
    return (isinstance(leaf, torch.device) and leaf.type == "cuda") or (
        isinstance(leaf, str) and leaf.partition(":")[0] == "cuda"
    )


@contextmanager
def other_device() -> Iterator[Places]:
    """See above; yields what tells which tensors are there."""
    places = Places()
    with _Operators(places), _Calls(places):
        yield places
