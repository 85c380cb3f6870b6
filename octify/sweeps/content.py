"""Digests of the content that a sweep's point depends on: files can change under the same name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octify.planning.ruleset import load_rules
from octify.storage.digests import add_file, digest_of_file, digest_of_text

if TYPE_CHECKING:
    from octify.metric.measure import Baseline

_ITEMS = 1024  # inputs of a loader or a folder: calibration takes at most 512, and may skip some
_BYTES = 2**32  # bytes of a loader: calibration holds at most 2 GiB


def rules_content(rules: str) -> str:
    """Content of the rule set ``rules``, independent of its file's path."""
    return repr(replace(load_rules(rules), path=Path()))


def rules_digest(rules: str) -> str:
    """Eight digits that distinguish rule files of one name; empty for a built-in rule set."""
    if not (rules.endswith(".toml") or "/" in rules):
        return ""
    return digest_of_text(rules_content(rules))[:8]


def metric_content(baseline: Baseline | None) -> dict[str, Any]:
    """Entry of a point's key for its metric; empty without one, as keys were before there were metrics.

    What the function reads is not seen, but its values of the original are: other data gives others.
    """
    if baseline is None:
        return {}
    metric = baseline.metric
    code = None if metric.file is None else digest_of_file(metric.file)
    return {"metric": [code, metric.key, metric.lower, sorted(baseline.original.values.items())]}


def data_digest(data: str | None) -> str:
    """Digest of the calibration inputs that ``data`` names: of all that calibration may read."""
    if data is None or data == "synthetic":
        return str(data)
    digest = hashlib.sha256()
    place, colon, name = data.rpartition(":")
    if colon and place.endswith(".py"):
        add_file(digest, Path(place))
        _add_items(digest, place, name)
    elif Path(data).is_dir():
        from octify.data.folder import walked

        for number, path in enumerate(walked(Path(data))):
            digest.update(
                f"{path.relative_to(data).as_posix()} {path.stat().st_size}\n".encode("utf-8", "replace")
            )
            if number < _ITEMS:
                add_file(digest, path)
    else:
        add_file(digest, Path(data))
    return digest.hexdigest()


def items_digest(data: Iterable[Any] | str | None) -> str:
    """A digest of calibration items that are at hand."""
    if data is None or isinstance(data, str):
        return str(data)
    digest = hashlib.sha256()
    _add_values(digest, data)
    return digest.hexdigest()


def _add_items(digest: Any, place: str, name: str) -> None:
    """Add the values of a loader's first items: if they differ between runs, so do the points."""
    from octify.data.files import items

    _add_values(digest, items(place, name))


def _add_values(digest: Any, items: Iterable[Any]) -> None:
    size = 0
    for item in islice(items, _ITEMS):
        for array in _arrays(item):
            digest.update(f"{array.dtype} {array.shape}".encode())
            digest.update(array.tobytes())
            size += array.nbytes
        if size > _BYTES:
            return


def _arrays(item: Any) -> Iterator[Any]:
    import numpy as np
    import torch

    if isinstance(item, torch.Tensor):
        flat = item.detach().cpu().contiguous().reshape(-1)
        digestible = flat.view(torch.uint8) if flat.numel() else flat.to(torch.uint8)
        yield np.frombuffer(str((item.dtype, tuple(item.shape))).encode(), np.uint8)
        yield digestible.numpy()
    elif isinstance(item, np.ndarray):
        yield item
    elif isinstance(item, (tuple, list)):
        for part in item:
            yield from _arrays(part)
    elif isinstance(item, Mapping):
        for part in item.values():
            yield from _arrays(part)
