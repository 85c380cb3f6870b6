"""Idioms that wait for a fault to be mended, or to be tried on their own, with the fault's number."""

from __future__ import annotations

from tests.fuzz.idioms import aliases, attached, questions, sizes, training, values

# A kind whose faults are mended loses its line here; single idioms are listed below.
_KINDS: tuple[tuple[dict[str, str], str], ...] = (
    (questions.IDIOMS, "W2, W6"),
    (sizes.IDIOMS, "W6, D"),
    (aliases.IDIOMS, "W8"),
    (training.IDIOMS, "W5, W7, M6"),
    (attached.IDIOMS, "W1, W3, W4, M6"),
    (values.IDIOMS, "M3, D"),
)
_SINGLE: dict[str, str] = {
    "block/zero channels": "M7",
    "block/shared norm": "W5",
    "block/stack extreme": "W9",
    "block/ssd head": "M1",
    "block/dict, keyword": "L",
    "block/opaque": "D",
    "block/opaque with convolution": "D",
    "ending/dict class": "M5",
    "ending/auxiliary": "W7",
    "ending/masked": "H2",
    "op/shape": "W6",
    "op/concatenation": "W9",
    "op/BatchNorm": "W5, M8",
    "op/norm over positions": "M8",
    "op/RMSNorm of maps": "M8",
    "op/other pooling": "M8",
    "op/reshape": "M1",
    "shape/odd sizes": "W10",
    "shape/alpha 1": "W10",
    # Not numbered yet: a map of size 1 at the example's size, larger at another.
    "shape/size one": "new",
}
PENDING: dict[str, str] = {name: fault for idioms, fault in _KINDS for name in idioms} | _SINGLE
