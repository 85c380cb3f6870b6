"""Block-wise reconstruction: the fitted branches of a block learn the block's output, block after block.

A block is what lies between two places at which a single value is all that the rest of the network reads:
the inside of a residual connection, or a few layers of a plain network. Its input is the converted network's,
whose earlier blocks are trained already; its target the original's output. Steps are in the coordinates of
``directions``; inputs kept aside say which step stays, block by block.

With a few hundred images this is between fits of single layers, which know nothing of one another, and
training of the whole network, which learns images by heart (Li et al. 2021, BRECQ, arXiv 2102.05426). Memory
is that of the ``Stream``s and of one batch through one block.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from octify.calibrate.distill.directions import directions
from octify.calibrate.fit.repair import Repaired
from octify.calibrate.fit.sites import Site
from octify.calibrate.streams.clock import Clock
from octify.calibrate.streams.execution import Stream, out_of_place
from octify.calibrate.streams.store import Store
from octify.layout.channels import Mask
from octify.nn.functional import pool
from octify.nn.views import to_map
from octify.ops.emitter import Value
from octify.passes.rewrite import Rewritten
from octify.trace import Traced

Chunk = tuple[Tensor, ...]
BATCH = 32
CLIP = 5.0
RATE = 4e-3
_MOST_ERROR = 0.4
_LEAST_SITES = 2  # of a block
LOOKS = 4


@dataclass(frozen=True)
class Segment:
    """A block: the original's node before it (None: the network's inputs) and its last one, and its sites."""

    start: fx.Node
    end: fx.Node
    sites: tuple[Site, ...]


@dataclass(frozen=True)
class BlockError:
    """Relative error of a block's output on inputs kept aside, and the step that stays."""

    end: str
    before: float
    after: float
    kept: int
    steps: int


def segments(traced: Traced, rewritten: Rewritten, sites: Sequence[Site]) -> list[Segment]:
    """Blocks in order; what has no site is part of the next one."""
    cuts = _cuts(traced, rewritten)
    place = {node: i for i, node in enumerate(traced.module.graph.nodes)}
    at = {id(site): place[site.uses[0].node] for site in sites if len(site.uses) == 1}
    found: list[Segment] = []
    if not cuts:
        return found
    start = cuts[0]
    for cut in cuts[1:]:
        inside = tuple(s for s in sites if id(s) in at and place[start] < at[id(s)] <= place[cut])
        if not inside:
            start = cut
        elif len(inside) >= _LEAST_SITES:
            found.append(Segment(start, cut, inside))
            start = cut
    return found


def _cuts(traced: Traced, rewritten: Rewritten) -> list[fx.Node]:
    """Nodes whose value, a map, is all that any later node reads."""
    last: dict[fx.Node, int] = {}
    nodes = [n for n in traced.module.graph.nodes if n.op != "get_attr"]
    for i, node in enumerate(nodes):
        for source in node.all_input_nodes:
            last[source] = i
    found, alive = [], set[fx.Node]()
    for i, node in enumerate(nodes):
        alive = {n for n in alive if last[n] > i}
        shape = traced.shape(node)
        if last.get(node, -1) > i and shape is not None:  # a size is no value that has to be learned
            alive.add(node)
        if alive == {node} and shape is not None and len(shape) >= 3 and node.name in rewritten.values:
            found.append(node)
    return found


@torch.enable_grad()
def train_blocks(
    traced: Traced,
    original: fx.GraphModule,
    rewritten: Rewritten,
    repaired: Repaired,
    chunks: Sequence[Chunk],
    held_out: Sequence[Chunk],
    *,
    steps: int,
    seconds: float = math.inf,
    seed: int = 0,
) -> list[BlockError]:
    """Train the fitted branches of every block in place, in eval mode."""
    student_module, teacher_module = rewritten.module.eval(), copy.deepcopy(original).eval()
    every = [*chunks, *held_out]
    blocks = segments(traced, rewritten, repaired.sites)
    errors: list[BlockError] = []
    generator = torch.Generator().manual_seed(seed)
    clock = Clock(student_module)
    with out_of_place(student_module), out_of_place(teacher_module), Store() as store:
        teacher = Stream(original.graph, teacher_module, every, store)
        student = Stream(student_module.graph, student_module, every, store)
        names = {node.name: node for node in original.graph.nodes}
        for number, block in enumerate(blocks):
            left = (seconds - clock.seconds()) / (len(blocks) - number)
            data = _Data(rewritten, block, teacher, student, names, len(chunks))
            errors += _trained(rewritten, block, repaired, data, steps, left, generator)
            data.release()
    return errors


class _Data:
    """What a block reads, and what it should give, by chunk."""

    def __init__(
        self,
        rewritten: Rewritten,
        block: Segment,
        teacher: Stream,
        student: Stream,
        names: dict[str, fx.Node],
        count: int,
    ) -> None:
        self.teacher, self.student, self.count = teacher, student, count
        value, self.end = rewritten.values[block.start.name], rewritten.values[block.end.name]
        self.inputs = [n for n in (value.high, value.low) if n is not None]
        self.target = names[block.end.name]
        self.layout = rewritten.resolved.layout
        for node in self.inputs:
            student.hold(node)
        teacher.hold(self.target)
        student.reach(*self.inputs)
        self.given = [student.values(node) for node in self.inputs]
        self.wanted = teacher.values(self.target)

    def release(self) -> None:
        for node in self.inputs:
            self.student.release(node)
        self.teacher.release(self.target)

    def batch(self, chunk: int, rows: Tensor | None = None) -> tuple[list[Tensor], list[Tensor]]:
        """Inputs of the block, and what its branches should give, for images of a chunk."""
        given = [values[chunk] for values in self.given]
        wanted = self.wanted[chunk]
        if rows is not None:
            given, wanted = [x[rows] for x in given], wanted[rows]
        return given, _branches(wanted, self.end, self.layout.roles(self.target.name, wanted.shape))


def _branches(wanted: Tensor, value: Value, roles: str) -> list[Tensor]:
    """The maps that the branches of a value should be."""
    if not value.octave:
        return [wanted]
    mask: Mask | None = value.mask
    dense, low = to_map(wanted, roles), torch.as_tensor(mask)
    found = []
    if value.high is not None:
        found.append(dense[:, ~low])
    if value.low is not None:
        found.append(pool(dense[:, low]))
    return found


def _trained(
    rewritten: Rewritten,
    block: Segment,
    repaired: Repaired,
    data: _Data,
    steps: int,
    seconds: float,
    generator: torch.Generator,
) -> list[BlockError]:
    module = _part(rewritten, block)
    trained = directions(module, block.sites, repaired.fits)
    if not trained:
        return []
    own = {name: p.detach().clone() for name, p in module.named_parameters()}
    held = own | dict(module.named_buffers())
    free = [part.start() for part in trained]
    parameters = [t.requires_grad_() for pair in free for t in pair]
    optimizer, clock = torch.optim.Adam(parameters), Clock(module)

    def changed() -> dict[str, Tensor]:
        made: dict[str, Tensor] = {}
        for part, (v, offset) in zip(trained, free, strict=True):
            part.add_to(made, own, v, offset)
        return made

    def error() -> float:
        with torch.no_grad():
            values, sums = held | changed(), [0.0, 0.0]
            for chunk in range(data.count, len(data.wanted)):
                given, wanted = data.batch(chunk)
                made = functional_call(module, values, tuple(given))
                for a, b in zip(made, wanted, strict=True):
                    sums[0] += float((a - b).double().square().sum()) * _weight(a)
                    sums[1] += float(
                        (b - b.mean((0, *range(2, b.ndim)), keepdim=True)).square().sum()
                    ) * _weight(a)
        return math.sqrt(sums[0] / max(sums[1], 1e-30))

    def _weight(x: Tensor) -> float:
        return 1.0 / math.prod(x.shape[2:])

    before = least = error()
    best, kept, rate, planned, step = changed(), 0, RATE * min(_MOST_ERROR, before), steps, 0
    batches = _batches(data, generator)
    while step < planned:
        given, wanted = next(batches)
        made = functional_call(module, held | changed(), tuple(given))
        loss = torch.stack([_loss(a, b) for a, b in zip(made, wanted, strict=True)]).sum()
        fraction = (
            min(1.0, (step + 1) / max(1, planned // 20)) * 0.5 * (1 + math.cos(math.pi * step / planned))
        )
        optimizer.param_groups[0]["lr"] = rate * fraction
        optimizer.zero_grad()
        torch.autograd.backward(10 * loss)
        nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        step += 1
        if step == 3:
            planned = max(3, min(steps, int(seconds / clock.seconds() * step)))
        if step % max(1, planned // LOOKS) == 0 or step == planned:
            now = error()
            if now < least:
                least, kept = now, step
                with torch.no_grad():
                    best = changed()
    with torch.no_grad():
        for name, value in best.items():
            rewritten.module.get_parameter(name).copy_(value)
    return [BlockError(block.end.name, before, least, kept, step)]


def _loss(made: Tensor, wanted: Tensor) -> Tensor:
    """Squared error over variance."""
    spread = wanted - wanted.mean((0, *range(2, wanted.ndim)), keepdim=True)
    return (made - wanted).square().mean() / spread.square().mean().clamp_min(1e-12)


def _batches(data: _Data, generator: torch.Generator) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Batches without end, each of images of one chunk."""
    while True:
        for chunk in torch.randperm(data.count, generator=generator).tolist():
            count = len(data.wanted[chunk])
            for rows in torch.split(torch.randperm(count, generator=generator), BATCH):
                yield data.batch(chunk, rows)


def _part(rewritten: Rewritten, block: Segment) -> fx.GraphModule:
    """The converted network between the two ends of a block: branches in, branches out."""
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    start, end = rewritten.values[block.start.name], rewritten.values[block.end.name]
    for node in (start.high, start.low):
        if node is not None:
            copies[node] = graph.placeholder(node.name)
    wanted = [n for n in (end.high, end.low) if n is not None]
    needed, todo = set[fx.Node](), list(wanted)
    while todo:
        node = todo.pop()
        if node not in needed and node not in copies:
            needed.add(node)
            todo += node.all_input_nodes
    for node in rewritten.module.graph.nodes:
        if node in needed:
            copies[node] = graph.node_copy(node, lambda n: copies[n])
    graph.output(tuple(copies[n] for n in wanted))
    return fx.GraphModule(rewritten.module, graph)
