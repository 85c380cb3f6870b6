"""Values of the original that many calibrations of it share, at one cut through its graph.

Trials of plans that convert nothing in front of a node have the original's values there. ``Prefix`` keeps, on
the images to fit on and on those to measure on, what is read across such a cut: nothing in front of it is
computed again (``Stream``'s ``origin``).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import fx, nn

from octify.calibrate.fit.repair import ROWS
from octify.calibrate.inputs.augment import enlarged
from octify.calibrate.inputs.images import Images
from octify.calibrate.streams.chunks import Chunk, Chunks
from octify.calibrate.streams.execution import Stream, for_reading
from octify.calibrate.streams.store import Store
from octify.compare.outputs import Output, in_own_units, outputs, outputs_of
from octify.ops.padding import through_padding
from octify.plan import Plan
from octify.trace import Traced


class Prefix:
    """Values of ``traced``; ``prefix_values`` makes one.

    target:
        Its ``outputs`` on the images to measure on; with ``own_units``, in those (``in_own_units``).
    fitted, measured:
        Streams over the images to fit on, their altered copies included, and over those to measure on.
    rows, chunks:
        Most rows of a fit, and chunks of ``fitted`` that have as many.
    """

    def __init__(
        self, traced: Traced, images: Images, seed: int, rows: int, store: Store, *, own_units: bool
    ) -> None:
        self.rows, self._own = rows, images
        measured = images.held_out or images.chunks
        target = outputs(traced.module, measured)
        self._plain = target if own_units else None
        self.target: Sequence[Output] = self._scaled(target)
        self._traced, self._store = traced, store
        self._place = {node: i for i, node in enumerate(traced.module.graph.nodes)}
        self.chunks: Sequence[Chunk] = enlarged(traced, images, seed)
        self.fitted = self._stream(self.chunks)
        self.measured = self._stream(measured)
        self._held: list[fx.Node] = []
        self._at = 0

    def _stream(self, chunks: Chunks) -> Stream:
        return Stream(self._traced.module.graph, self._traced.module, chunks, self._store)

    def place_of(self, plan: Plan) -> int:
        """Place in the graph of the cut in front of all that ``plan`` converts."""
        return min(
            (self._place[self._read(node)] + 1 for node in self._calls(plan)), default=len(self._place)
        )

    def prepare(self, plan: Plan) -> None:
        """Get ready to calibrate ``plan``; plans in ascending order of their cuts cost one run together."""
        self._move_to(self.place_of(plan))
        positions = min((self._positions(node) for node in self._calls(plan)), default=1)
        copies = -(-self.rows // max(1, self._own.count * positions))
        self.chunks = self.fitted.chunks[: max(1, copies) * len(self._own.chunks)]

    def _calls(self, plan: Plan) -> list[fx.Node]:
        return [node for conv in plan.convs if conv.converted for node in self._traced.calls(conv.path)]

    def _positions(self, node: fx.Node) -> int:
        shape = self._traced.shape(node) or ()
        return math.prod(shape[2:])

    def _read(self, node: fx.Node) -> fx.Node:
        """The input of a converted layer, in front of a padding that it takes over."""
        linear = isinstance(self._traced.submodule(node), nn.Linear)
        return node.all_input_nodes[0] if linear else through_padding(self._traced, node)[0]

    def _move_to(self, place: int) -> None:
        """Keep what is read across the cut in front of the node at ``place``."""
        if place < self._at:
            self.fitted.close()
            self.measured.close()
            self.fitted, self.measured = (self._stream(s.chunks) for s in (self.fitted, self.measured))
            self._held = []
        crossing = [node for node in self._place if self.crosses(node, place)]
        for stream in (self.fitted, self.measured):
            for node in crossing:
                stream.hold(node)
            stream.reach(*crossing)
            for node in self._held:
                stream.release(node)
        self._held, self._at = crossing, place

    def crosses(self, node: fx.Node, place: int) -> bool:
        """Return whether a value is read across the cut in front of the node at ``place``."""
        if self._place[node] >= place or node.op in ("placeholder", "get_attr"):
            return False
        return any(self._place[user] >= place for user in node.users)

    def outputs_of(self, module: fx.GraphModule) -> list[Output]:
        """``outputs`` of a conversion on the images to measure on."""
        with for_reading(module):
            stream = Stream(
                module.graph, module, self.measured.chunks, self._store, self.measured, only_kept=True
            )
            results = outputs_of(stream.values(module.graph.output_node()))
            stream.close()
        return self._scaled(results)

    def _scaled(self, results: list[Output]) -> list[Output]:
        return results if self._plain is None else in_own_units(results, self._plain)


@contextmanager
def prefix_values(
    traced: Traced, images: Images, seed: int, rows: int = ROWS, *, own_units: bool = False
) -> Iterator[Prefix]:
    """Values of ``traced`` for calibrations on ``images`` with ``seed``; forgotten at the end.

    ``own_units``: errors are of outputs in those.
    """
    own = copy.deepcopy(traced)
    with for_reading(own.module), Store() as store:
        yield Prefix(own, images, seed, rows, store, own_units=own_units)
