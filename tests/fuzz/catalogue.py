"""Every idiom by name; which are known to be right, and which wait for a fault to be mended."""

from __future__ import annotations

from functools import lru_cache

from tests.fuzz.idioms import aliases, attached, blocks, endings, questions, sizes, training, values
from tests.fuzz.operations import families

TEMPLATES: dict[str, str] = {
    **blocks.IDIOMS,
    **questions.IDIOMS,
    **sizes.IDIOMS,
    **aliases.IDIOMS,
    **training.IDIOMS,
    **attached.IDIOMS,
    **values.IDIOMS,
}
ENDINGS: dict[str, str] = endings.IDIOMS
PENDING: dict[str, str] = {}


@lru_cache(maxsize=1)
def every_idiom() -> tuple[str, ...]:
    """The idioms, those of the registered families first."""
    return (*families(), *TEMPLATES, *ENDINGS)


def is_solid(idiom: str) -> bool:
    return idiom not in PENDING
