"""Shapes, MACs and bytes of every node of an FX graph, without computing a value.

The graph runs once on fake tensors under ``FlopCounterMode``, PyTorch's own counter of
convolutions and matrix products; one MAC is two of its FLOPs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from octify.compat import FakeTensorMode, storage_key, tree_leaves
from octify.trace.attached import attached
from octify.trace.duplicate import duplicate
from octify.trace.modes import in_eval
from octify.trace.state import state_kept
from octify.trace.unlogged import unlogged


@dataclass(frozen=True)
class InputSpec:
    """Shape and dtype (``"float32"``) of one example input."""

    shape: tuple[int, ...]
    dtype: str

    @classmethod
    def of(cls, tensor: Tensor) -> InputSpec:
        """The specification of ``tensor``."""
        return cls(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))

    def example(self) -> Tensor:
        """A seeded random (or zero, for integers) tensor of this shape on the CPU."""
        dtype = getattr(torch, self.dtype)
        if not dtype.is_floating_point:
            return torch.zeros(self.shape, dtype=dtype)
        generator = torch.Generator().manual_seed(0)
        return torch.randn(self.shape, generator=generator).to(dtype)


@dataclass(frozen=True)
class Facts:
    """Facts about one node.

    shape:
        Shape of its tensor, or None when it yields no single tensor.
    macs:
        Multiply-accumulates of convolutions and matrix products it runs.
    new_bytes:
        Bytes of the tensors it allocates as results; views and in-place results count 0.
    """

    shape: tuple[int, ...] | None
    macs: int
    new_bytes: int


class _Measure(fx.Interpreter):
    """Runs a graph under a FLOP counter and notes every node's facts."""

    def __init__(
        self, module: fx.GraphModule, counter: FlopCounterMode, stand_ins: Mapping[str, nn.Module]
    ) -> None:
        super().__init__(module)
        self.extra_traceback = False
        self.counter = counter
        self.stand_ins = stand_ins
        self.facts: dict[str, Facts] = {}
        self.current: fx.Node | None = None

    def fetch_attr(self, target: str) -> Any:
        return self.stand_ins[target] if target in self.stand_ins else super().fetch_attr(target)

    def run_node(self, n: fx.Node) -> Any:
        self.current = n
        operands = _storages(self.fetch_args_kwargs_from_env(n)) if n.op != "placeholder" else {}
        before = self.counter.get_total_flops()
        result = super().run_node(n)
        allocates = n.op in ("call_module", "call_function", "call_method")
        fresh = {key: t for key, t in _storages(result).items() if allocates and key not in operands}
        self.facts[n.name] = Facts(
            shape=tuple(result.shape) if isinstance(result, Tensor) else None,
            macs=(self.counter.get_total_flops() - before) // 2,
            new_bytes=sum(t.numel() * t.element_size() for t in fresh.values()),
        )
        return result

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """An attribute without its gradient: the counter cannot hook a module that is given a parameter."""
        value = super().get_attr(target, args, kwargs)
        return value.detach() if isinstance(value, Tensor) else value


def _storages(value: Any) -> dict[int, Tensor]:
    """The tensors in ``value``, one for each storage: views and in-place results share their source's."""
    tensors = (x for x in tree_leaves(value) if isinstance(x, Tensor) and x.layout is torch.strided)
    return {storage_key(t): t for t in tensors}


class MeasureError(Exception):
    """A node failed; carries the node."""

    def __init__(self, node: fx.Node | None, cause: Exception) -> None:
        super().__init__(str(cause))
        self.node = node
        self.cause = cause


def _stand_ins(module: fx.GraphModule) -> dict[str, nn.Module]:
    """Copies of the modules that are not just torch's or octify's own, with parameters of the same values.

    They may keep what they compute, or give it to a parameter, and would keep tensors without data.
    """
    tensors: dict[int, Any] = {id(t): t for t in module.buffers()}
    tensors |= {id(p): nn.Parameter(p.detach(), p.requires_grad) for p in module.parameters()}
    called = {str(node.target) for node in module.graph.find_nodes(op="call_module")}
    modules = {target: module.get_submodule(target) for target in called}
    return {
        target: duplicate(each, tensors)
        for target, each in modules.items()
        if not type(each).__module__.startswith(("torch.nn.", "octify.nn.")) or attached(each)
    }


def _run(
    module: fx.GraphModule, inputs: Sequence[Tensor], stand_ins: Mapping[str, nn.Module]
) -> dict[str, Facts]:
    # Attention as matrix products: the counter has no formula for the CPU's fused kernel.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        interpreter = _Measure(module, counter, stand_ins)
        try:
            interpreter.run(*inputs)
        except Exception as error:
            raise MeasureError(interpreter.current, error) from error
    return interpreter.facts


def measure(module: fx.GraphModule, example_inputs: Sequence[Tensor]) -> Mapping[str, Facts]:
    """Facts of every node of ``module`` by name, in eval mode, for inputs shaped like ``example_inputs``.

    Tries fake tensors first; a graph they cannot run (data-dependent control flow in an
    opaque module) is run for real. Raises MeasureError when that fails too.
    """
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    with torch.no_grad(), in_eval(module), state_kept(module):
        try:
            stand_ins = _stand_ins(module)
            with FakeTensorMode(allow_non_fake_inputs=True), unlogged():
                fakes = [torch.empty(t.shape, dtype=t.dtype, device=device) for t in example_inputs]
                return _run(module, fakes, stand_ins)
        except MeasureError:
            if any(t.is_meta for t in example_inputs):
                raise
            return _run(module, [t.to(device) for t in example_inputs], _stand_ins(module))
