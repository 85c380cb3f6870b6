"""Number of images that fit in memory at once, and the work of running them."""

from __future__ import annotations

from octify.trace import Traced

PER_NUMBER = 60  # for one number of a linear system
DOUBLE = 2  # for one multiply-accumulate in double precision


def of_run(traced: Traced, images: int) -> int:
    """Work of running the original on ``images`` images."""
    return images * sum(facts.macs for facts in traced.facts.values()) // batch_of(traced)


_CHUNK = 64 * 2**20  # bytes of the largest value of a chunk
_FOR_GRADIENTS = 2**29  # bytes of the original's values: what training keeps is up to three times as much


def batch_of(traced: Traced) -> int:
    """Images of the example that the model was traced with, which its facts are about."""
    return max(1, traced.inputs[0].shape[0])


def chunk_size(traced: Traced) -> int:
    """Images per chunk, so that no value of a chunk is larger than 64 MiB."""
    batch = batch_of(traced)
    largest = max((facts.new_bytes // batch for facts in traced.facts.values()), default=1)
    return int(max(1, min(128, _CHUNK // max(1, largest))))


def gradient_batch(traced: Traced, most: int = _FOR_GRADIENTS) -> int:
    """Images whose values fit in ``most`` bytes all together, as following gradients needs them."""
    values = sum(facts.new_bytes for facts in traced.facts.values()) // batch_of(traced)
    return int(max(1, most // max(1, values)))


def live_bytes(traced: Traced) -> int:
    """Bytes per image of the values alive at the widest cut through the original."""
    batch = batch_of(traced)
    nodes = list(traced.module.graph.nodes)
    last = {source: node for node in nodes for source in node.all_input_nodes}
    freed: dict[object, int] = {}
    for source, node in last.items():
        freed[node] = freed.get(node, 0) + traced.facts[source.name].new_bytes
    alive = peak = 0
    for node in nodes:
        alive += traced.facts[node.name].new_bytes
        peak = max(peak, alive)
        alive -= freed.get(node, 0)
    return peak // batch
