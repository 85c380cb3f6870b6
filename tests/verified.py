"""A fixture that has every rewritten graph verified (``octify.passes.verifier``)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from octify.passes.verifier import VERIFY


@pytest.fixture(scope="package", autouse=True)
def verified() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VERIFY, "1")
        yield
