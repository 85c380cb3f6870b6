"""Every graph that tests of passes rewrite is verified (``octify.passes.verifier``)."""

from __future__ import annotations

from tests.verified import verified

__all__ = ["verified"]
