"""Every idiom by name; which are known to be right, and which wait for a fault to be mended."""

from __future__ import annotations

from tests.fuzz.idioms import aliases, attached, blocks, endings, questions, sizes, training, values
from tests.fuzz.operations import families
from tests.fuzz.pending import PENDING

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
# Not a statement, but a way to draw the whole case.
SHAPES = ("shape/odd sizes", "shape/alpha 1", "shape/size one")


def every_idiom() -> tuple[str, ...]:
    """The idioms, those of the registered families first."""
    return (*families(), *TEMPLATES, *ENDINGS, *SHAPES)


# What the suite draws: a family that is registered anew belongs to it at once.
SOLID: tuple[str, ...] = tuple(idiom for idiom in every_idiom() if idiom not in PENDING)
