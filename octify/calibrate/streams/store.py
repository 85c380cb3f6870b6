"""Store of graph nodes' values, chunk by chunk: in memory while there is room, else in a file.

The files have no names (or go with the process, on Windows), so that nothing is left behind,
however a run ends. They lie in the system's folder for temporary files; ``TMPDIR`` names another.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any, overload

import torch
from torch import Tensor

from octify.compat import tree_leaves, tree_map
from octify.errors import OctifyError

IN_MEMORY = 2**29  # bytes
_LEAST = 2**16  # bytes of a tensor that is worth a place in a file


@dataclass(frozen=True)
class _Written:
    """A tensor in a file: where, what it was, and the order of its axes in memory."""

    offset: int
    shape: tuple[int, ...]
    order: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


class Store:
    """Room for values: at most ``room`` bytes of them are in memory. A context manager that forgets all.

    ``held`` is how many bytes are in memory now, ``most_held`` how many there ever were, ``written``
    how many have gone to files.
    """

    def __init__(self, room: int | None = None) -> None:
        self.room = IN_MEMORY if room is None else room
        self.held = self.most_held = self.written = 0
        self._kept: set[StoredValues] = set()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exception: object) -> None:
        for values in tuple(self._kept):
            values.clear()

    def values(self, chunks: int) -> StoredValues:
        """A place for the values of a node for ``chunks`` chunks of images."""
        place = StoredValues(self, chunks)
        self._kept.add(place)
        return place

    def forget(self, values: StoredValues) -> None:
        """``values`` have been cleared."""
        self._kept.discard(values)

    def take(self, size: int) -> bool:
        """Reserve ``size`` bytes; return whether there was room for them."""
        if self.held + size > self.room:
            return False
        self.held += size
        self.most_held = max(self.most_held, self.held)
        return True


class StoredValues(Sequence[Any]):
    """The values of one node, one for each chunk; reading one from a file makes a new tensor each time."""

    def __init__(self, store: Store, chunks: int) -> None:
        self._store = store
        self._values: list[Any] = [None] * chunks
        self._sizes = [0] * chunks
        self._file: IO[bytes] | None = None
        self._end = 0

    def __len__(self) -> int:
        return len(self._values)

    @overload
    def __getitem__(self, index: int) -> Any: ...

    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return tree_map(lambda v: self._read(v) if isinstance(v, _Written) else v, self._values[index])

    def put(self, index: int, value: Any) -> None:
        """Keep ``value`` for chunk ``index``. A tensor that is a view is kept alone, without its base."""
        size = sum(_bytes(leaf) for leaf in tree_leaves(value) if isinstance(leaf, Tensor))
        if self._store.take(size):
            self._values[index], self._sizes[index] = tree_map(_own, value), size
        else:
            self._values[index] = tree_map(self._write, value)

    def drop(self, index: int) -> None:
        """Forget the value of chunk ``index``."""
        self._values[index] = None
        self._store.held -= self._sizes[index]
        self._sizes[index] = 0

    def clear(self) -> None:
        """Forget all, and give up the file."""
        for index in range(len(self)):
            self.drop(index)
        if self._file is not None:
            self._file.close()
            self._file = None
        self._store.forget(self)

    def _write(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or _bytes(value) < _LEAST:
            return value
        order = tuple(sorted(range(value.ndim), key=lambda axis: -value.stride()[axis]))
        flat = value.detach().permute(order).contiguous().reshape(-1).cpu()
        written = _Written(self._end, tuple(value.shape), order, value.dtype, value.device)
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="octify-", buffering=0)  # noqa: SIM115
            self._file.seek(self._end)
            _write_all(self._file, flat.view(torch.uint8).numpy().data)
        except OSError as error:
            raise OctifyError(
                "there is no room for calibration's values",
                where=tempfile.gettempdir(),
                why=str(error),
                hint="set TMPDIR to a folder with more room, or give fewer or smaller inputs",
            ) from error
        self._end += _bytes(value)
        self._store.written += _bytes(value)
        return written

    def _read(self, written: _Written) -> Tensor:
        shape = [written.shape[axis] for axis in written.order]
        flat = torch.empty(shape, dtype=written.dtype)
        assert self._file is not None
        self._file.seek(written.offset)
        _read_all(self._file, flat.reshape(-1).view(torch.uint8).numpy().data)
        back = sorted(range(len(shape)), key=lambda place: written.order[place])
        return flat.permute(back).to(written.device)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _own(value: Any) -> Any:
    """A tensor whose storage is not larger than itself."""
    if isinstance(value, Tensor) and value.untyped_storage().nbytes() > 2 * _bytes(value):
        return value.clone()
    return value


def _write_all(file: IO[bytes], data: memoryview) -> None:
    while len(data):
        data = data[file.write(data) :]


def _read_all(file: IO[bytes], into: memoryview) -> None:
    while len(into):
        count = file.readinto(into)  # type: ignore[attr-defined]
        if not count:
            raise OSError("a temporary file of calibration's values ended early")
        into = into[count:]
