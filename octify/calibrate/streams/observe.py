"""Looking at the original's values, chunk by chunk: nothing is kept but what the observer adds up."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence, Set
from typing import Any

import torch
from torch import Tensor, fx, nn

from octify.calibrate.streams.chunks import Chunks
from octify.calibrate.streams.execution import Stream, for_reading
from octify.calibrate.streams.sizes import gradient_batch
from octify.compare.outputs import tensors_of
from octify.trace import Traced

_FOR_GRADIENTS = 2**30  # bytes of values that a backward pass reads

Observer = Callable[[Tensor, Tensor], None]


class _Watching(fx.Interpreter):
    """Runs the nodes ``needed`` (None: all), and shows what is watched to its observer."""

    def __init__(
        self,
        module: nn.Module,
        graph: fx.Graph,
        watch: Mapping[str, Observer],
        needed: Set[fx.Node] | None = None,
    ) -> None:
        super().__init__(module, graph=graph)
        self.extra_traceback = False
        self.watch, self.needed = watch, needed

    def run_node(self, n: fx.Node) -> Any:
        if self.needed is not None and n not in self.needed and n.op != "placeholder":
            return None
        observer = self.watch.get(n.name)
        source = self.env.get(n.args[0]) if observer is not None and n.args else None  # type: ignore[arg-type]
        result = super().run_node(n)
        if observer is not None and source is not None:
            observer(source, result)
        return result


def observe(
    traced: Traced, chunks: Chunks, watch: Mapping[str, Observer], prefix: Stream | None = None
) -> None:
    """Run the original in eval mode; ``watch[node name](input, output)`` is called for every chunk.

    Nodes that no watched one depends on are not run, nor those whose values ``prefix`` keeps: a stream over
    these chunks, and perhaps more.
    """
    graph = traced.module.graph
    with for_reading(traced.module), torch.no_grad():
        there = {} if prefix is None else prefix.twins_of(graph, traced.module, only_kept=True)
        needed = _needed(graph, watch, there.keys())
        for i, chunk in enumerate(chunks):
            start = {n: prefix.values(twin)[i] for n, twin in there.items()} if prefix is not None else {}
            _Watching(traced.module, graph, watch, needed).run(*chunk, initial_env=start)


def _needed(graph: fx.Graph, watch: Container[str], there: Container[fx.Node]) -> set[fx.Node]:
    """The watched nodes and what they depend on, as far as it is not ``there``."""
    needed: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node in needed or node.name in watch:
            needed |= {node, *(n for n in node.all_input_nodes if n not in there)}
    return needed


def sensitivity(traced: Traced, chunks: Chunks, names: Sequence[str], seed: int) -> Mapping[str, Tensor]:
    """Fisher weights of the outputs of the nodes ``names``: squared gradient of each channel, (C,).

    Its mean over positions, summed over images; taken in pieces of chunks so small that the values
    that the backward pass reads stay below 1 GiB. The gradient is that of ``-log p_y`` with y drawn
    from the original's own prediction where the output is (N, classes), else of a random projection
    of the outputs.
    """
    generator = torch.Generator().manual_seed(seed)
    totals: dict[str, Tensor] = {}
    for chunk in _pieces(traced, chunks):
        watched: dict[str, Tensor] = {}

        def keep(name: str, into: dict[str, Tensor] = watched) -> Observer:
            def observer(x: Tensor, y: Tensor) -> None:
                into[name] = y

            return observer

        inputs = [x.detach().clone().requires_grad_(x.is_floating_point()) for x in chunk]
        with for_reading(traced.module), torch.enable_grad():
            output = _Watching(traced.module, traced.module.graph, {n: keep(n) for n in names}).run(*inputs)
            loss = _random_loss(output, generator)
            present = [n for n in names if watched[n].requires_grad]
            grads = torch.autograd.grad(loss, [watched[n] for n in present], allow_unused=True)
        for name, grad in zip(present, grads, strict=True):
            if grad is not None:
                square = grad.square().sum(0)
                totals[name] = totals.get(name, 0) + square.reshape(len(square), -1).mean(1)
    return totals


def _pieces(traced: Traced, chunks: Chunks) -> Iterator[tuple[Tensor, ...]]:
    images = gradient_batch(traced, _FOR_GRADIENTS)
    for chunk in chunks:
        yield from zip(*(torch.split(x, images) for x in chunk), strict=True)


def _random_loss(output: Any, generator: torch.Generator) -> Tensor:
    total: Tensor | None = None
    for tensor in tensors_of(output):
        if tensor.ndim == 2 and tensor.shape[1] > 1:
            logp = tensor.float().log_softmax(1)
            drawn = torch.multinomial(logp.detach().exp().cpu(), 1, generator=generator).to(logp.device)
            part = -logp.gather(1, drawn).sum()
        else:
            signs = torch.randint(0, 2, tensor.shape, generator=generator).to(tensor) * 2 - 1
            part = (tensor * signs).sum() / tensor.detach().std().clamp_min(1e-12)
        total = part if total is None else total + part
    assert total is not None
    return total
