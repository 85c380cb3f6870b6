"""What a model answers: the form of its output, its tensors, in training also gradients and buffers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

_DOUBLE = 2.0**-50  # some roundings of float64
# Two computations in another order, against what moving every number by one rounding does: sums of some
# hundred terms. A wrong coefficient is 1e6 times larger.
FACTOR = 64.0


@dataclass(frozen=True)
class Answer:
    """The form of an output (its classes, keys, dtypes and shapes) and its tensors by place."""

    form: str
    tensors: Mapping[str, Tensor]


Observer = Callable[[nn.Module, Tensor], Answer]


def evaluated(model: nn.Module, x: Tensor) -> Answer:
    """The answer in eval mode."""
    model.eval()
    with torch.no_grad():
        return _answer(model(x.clone()))


def trained(model: nn.Module, x: Tensor) -> Answer:
    """The answer in the training modes of ``model``, with gradients and buffers after a backward pass."""
    torch.manual_seed(0)
    model.zero_grad(set_to_none=True)
    answer = _answer(model(x.clone()))
    generator = torch.Generator().manual_seed(1)
    loss = torch.zeros((), dtype=torch.float64)
    for value in answer.tensors.values():
        if value.is_floating_point() and value.requires_grad:
            loss = loss + (value.double() * torch.rand(value.shape, generator=generator)).sum()
    if loss.requires_grad:
        loss.backward()
    tensors = {name: value.detach() for name, value in answer.tensors.items()}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            tensors[f"gradient of {name}"] = parameter.grad
    tensors |= {f"buffer {name}": buffer.detach().clone() for name, buffer in model.named_buffers()}
    return Answer(answer.form, tensors)


def noise(build: Callable[[], tuple[nn.Module, Tensor]], x: Tensor, observe: Observer) -> Mapping[str, float]:
    """How far the answer moves when every number moves by a rounding of the narrowest dtype."""
    model, _ = build()
    unit = unit_of(model, x)
    model, _ = build()
    want = observe(model, x)
    largest = {name: unit * _largest(value) for name, value in want.tensors.items()}
    for seed in range(2):
        model, _ = build()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                if tensor.is_floating_point():
                    tensor.mul_(_nudge(tensor, unit, generator))
        moved = observe(model, x * _nudge(x, unit, generator))
        for name, value in moved.tensors.items():
            if name in largest and want.tensors[name].shape == value.shape:
                largest[name] = max(largest[name], _distance(want.tensors[name], value))
    return largest


def unit_of(model: nn.Module, x: Tensor) -> float:
    """The rounding of the narrowest floating dtype that ``model`` computes in, wherever that is written."""
    with _Dtypes() as seen:
        evaluated(model, x)
    return max([_DOUBLE, *(torch.finfo(dtype).eps for dtype in seen.dtypes)])


class _Dtypes(TorchDispatchMode):
    """Notes the floating dtypes, but float64, of everything that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float64:
                self.dtypes.add(value.dtype)
        return result


def difference(
    want: Answer, got: Answer, allowed: Mapping[str, float], where: Mapping[str, Tensor] | None = None
) -> str | None:
    """What differs, in a sentence; None where nothing does.

    ``where`` says which elements must agree: all by default.
    """
    if want.form != got.form:
        return f"the output's form is {got.form} instead of {want.form}"
    missing = [name for name in want.tensors if name not in got.tensors and not name.startswith("buffer")]
    if missing:
        return f"{missing[0]} is missing"
    for name, value in want.tensors.items():
        other = got.tensors.get(name)
        if other is None:
            continue
        mask = None if where is None else where.get(name)
        error = _distance(value, other, mask)
        if not error <= FACTOR * allowed.get(name, 0.0):
            size, most = _largest(value), FACTOR * allowed.get(name, 0.0)
            return f"{name} is off by {error:.3g} (values to {size:.3g}, allowed {most:.2g})"
    return None


def _answer(output: Any) -> Answer:
    tensors: dict[str, Tensor] = {}
    form = _form(output, "output", tensors)
    return Answer(form, tensors)


def _form(value: Any, place: str, tensors: dict[str, Tensor]) -> str:
    if isinstance(value, Tensor):
        tensors[place] = value
        return f"{str(value.dtype)[6:]}{list(value.shape)}"
    parts = [f"{key}={_form(entry, f'{place}.{key}', tensors)}" for key, entry in _entries(value)]
    return f"{type(value).__name__}({', '.join(parts)})" if parts else repr(value)


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((str(key), entry) for key, entry in value.items())
    elif isinstance(value, (tuple, list)):
        yield from ((str(i), entry) for i, entry in enumerate(value))
    elif dataclasses.is_dataclass(value):
        yield from ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))


def _nudge(tensor: Tensor, unit: float, generator: torch.Generator) -> Tensor:
    return 1 + unit * torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.dtype)


def _distance(a: Tensor, b: Tensor, where: Tensor | None = None) -> float:
    if a.shape != b.shape:
        return math.inf
    a, b = a.detach().double(), b.detach().double()
    same = (a == b) | (a.isnan() & b.isnan())
    error = (a - b).abs().masked_fill(same, 0.0).nan_to_num(nan=math.inf, posinf=math.inf)
    if where is not None:
        error = error[where]
    return float(error.max()) if error.numel() else 0.0


def _largest(value: Tensor) -> float:
    finite = value.detach().double().abs()
    finite = finite[finite.isfinite()]
    return float(finite.max()) if finite.numel() else 0.0
