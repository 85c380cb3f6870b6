"""Fake tensors without PyTorch's log of what they refuse.

That a graph cannot be run on them is no news to octify, which then does otherwise; on the user's terminal
PyTorch's tracebacks would look like a crash.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from octify.compat import FAKE_TENSOR_LOG


@contextmanager
def unlogged() -> Iterator[None]:
    """Meanwhile PyTorch does not log what fake tensors refuse."""
    log = logging.getLogger(FAKE_TENSOR_LOG)
    disabled, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = disabled
