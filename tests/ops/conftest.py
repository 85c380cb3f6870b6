"""Every graph that tests of operations rewrite is verified (``octify.passes.verifier``)."""

from __future__ import annotations

from tests.verified import verified

__all__ = ["verified"]
