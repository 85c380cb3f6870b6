"""Private names of PyTorch, each with what is done where a torch has it no more.

Nothing else in octify names them, so that the next torch breaks one file. A fallback may be slower or
refuse more; it never guesses. tests/test_compat.py takes every name away in turn.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, fx, nn

__all__ = [
    "ASSERTIONS",
    "BATCH_NORM_FORWARDS",
    "COMPILED",
    "CONV_FORWARD",
    "FAKE_TENSOR_LOG",
    "LAYER_METHODS",
    "BatchNorm",
    "CodeGen",
    "ConvNd",
    "ConvTransposeNd",
    "Dropout",
    "FakeTensor",
    "FakeTensorMode",
    "NormBase",
    "TorchDispatchMode",
    "TreeSpec",
    "backward_hooks",
    "buffers_of",
    "compiled_functions_opened",
    "forward_hooks",
    "forward_pre_hooks",
    "freezing",
    "has_global_hooks",
    "has_onednn",
    "has_own_hooks",
    "hook_tables",
    "is_watched",
    "memory_steps",
    "module_call",
    "module_stack",
    "native",
    "reversed_pads",
    "set_reversed_pads",
    "storage_key",
    "targets_written",
    "tree_flatten",
    "tree_flatten_with_path",
    "tree_leaves",
    "tree_map",
    "tree_map_only",
    "tree_unflatten",
    "unscripted",
    "with_versions",
]

# Families of layers, for isinstance.
try:
    from torch.nn.modules.conv import _ConvNd as ConvNd
    from torch.nn.modules.conv import _ConvTransposeNd as ConvTransposeNd
except ImportError:
    ConvTransposeNd = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)  # type: ignore
    ConvNd = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *ConvTransposeNd)  # type: ignore
try:
    from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
    from torch.nn.modules.batchnorm import _NormBase as NormBase
except ImportError:
    BatchNorm = (  # type: ignore
        *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
        *(nn.LazyBatchNorm1d, nn.LazyBatchNorm2d, nn.LazyBatchNorm3d),
    )
    NormBase = (  # type: ignore
        *(*BatchNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),  # type: ignore
        *(nn.LazyInstanceNorm1d, nn.LazyInstanceNorm2d, nn.LazyInstanceNorm3d),
    )
# Name of the log in which fake tensors tell what they refuse; another name is a log that nobody writes to.
FAKE_TENSOR_LOG = "torch._subclasses.fake_tensor"
# BatchNorm1d, 2d and 3d inherit one; that of SyncBatchNorm is the same in eval mode.
BATCH_NORM_FORWARDS = frozenset({nn.BatchNorm2d.forward, nn.SyncBatchNorm.forward})
try:
    from torch.nn.modules.dropout import _DropoutNd as Dropout
except ImportError:
    Dropout = (  # type: ignore
        *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
        *(nn.AlphaDropout, nn.FeatureAlphaDropout),
    )

# Methods that decide what a convolution, and any layer, computes.
CONV_FORWARD = ("forward", "_conv_forward")
LAYER_METHODS = (*CONV_FORWARD, "_check_input_dim", "_output_padding", "__call__", "_call_impl")

# What tracing does.
ASSERTIONS: tuple[Any, ...] = tuple(f for f in (getattr(torch, "_assert", None),) if f is not None)
try:
    from torch.fx._symbolic_trace import _orig_module_call as module_call
except ImportError:
    module_call = nn.Module.__call__  # before any tracer replaces it


class _RealTensorMode:
    """Real tensors in the place of fake ones: slower, with the same sizes."""

    def __init__(self, *, allow_non_fake_inputs: bool = False) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass


try:
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
except ImportError:
    FakeTensorMode = _RealTensorMode  # type: ignore

    class FakeTensor(Tensor):  # type: ignore
        """No tensor is fake where torch has none."""


def module_stack(node: fx.Node) -> list[str]:
    """Paths of the modules that ran when ``node`` was recorded, outermost first; empty if unknown."""
    return [path for path, _ in node.meta.get("nn_module_stack", {}).values() if path]


class CodeGen(fx.graph.CodeGen):
    """FX's code, with ``format_target`` as a method; FX's own names where it cannot be replaced."""

    def format_target(self, base: str, target: str) -> str:
        """An expression for the attribute of ``base`` at the dotted path ``target``."""
        raise NotImplementedError

    def _gen_python_code(self, *args: Any, **kwargs: Any) -> Any:
        with targets_written(self.format_target):
            return super()._gen_python_code(*args, **kwargs)


@contextlib.contextmanager
def targets_written(by: Callable[[str, str], str]) -> Iterator[None]:
    """Meanwhile FX writes the attribute at a dotted path as ``by(base, path)``, where it lets us."""
    with contextlib.ExitStack() as stack:
        if hasattr(fx.graph, "_format_target"):
            stack.enter_context(patch.object(fx.graph, "_format_target", by))
        yield


def native(*names: str) -> tuple[Any, ...]:
    """The functions of these names that torch's own ``torch.nn.functional`` binds without a wrapper."""
    own = getattr(torch._C, "_nn", None)
    return tuple(getattr(own, name) for name in names if hasattr(own, name))


# What is hooked into a module, and what it holds.
def hook_tables(module: nn.Module) -> tuple[MutableMapping[int, Any], ...]:
    """The tables of forward and forward-pre hooks by handle; of all hooks if they cannot be told apart."""
    try:
        return module._forward_hooks, module._forward_pre_hooks
    except AttributeError:
        return tuple(v for k, v in vars(module).items() if "hook" in k and isinstance(v, MutableMapping))


def forward_hooks(module: nn.Module) -> Mapping[int, Any]:
    """Forward hooks by handle; all hooks where they cannot be told apart."""
    return _hooks(module, "_forward_hooks")


def forward_pre_hooks(module: nn.Module) -> Mapping[int, Any]:
    """Forward-pre hooks by handle; all hooks where they cannot be told apart."""
    return _hooks(module, "_forward_pre_hooks")


def backward_hooks(module: nn.Module) -> Mapping[int, Any]:
    """Backward and backward-pre hooks by handle; all hooks where they cannot be told apart."""
    return {**_hooks(module, "_backward_hooks"), **_hooks(module, "_backward_pre_hooks")}


def has_own_hooks(tensor: Tensor) -> bool:
    """Return whether hooks are registered on a tensor's gradient; False if that is unknown."""
    return any(getattr(tensor, table, None) for table in ("_backward_hooks", "_post_accumulate_grad_hooks"))


def _hooks(module: nn.Module, table: str) -> Mapping[int, Any]:
    own = vars(module)
    if table in own:
        hooks: Mapping[int, Any] = own[table]
        return hooks
    every = (v for k, v in own.items() if "hook" in k and isinstance(v, Mapping))
    return {handle: hook for each in every for handle, hook in each.items()}


def buffers_of(module: nn.Module) -> MutableMapping[str, Any]:
    """The table in which ``module`` holds its own buffers; its attributes where there is none."""
    buffers: MutableMapping[str, Any] = getattr(module, "_buffers", vars(module))
    return buffers


# Padding: (last axis left, right, ..., first axis left, right).
_PADS = "_reversed_padding_repeated_twice"


def reversed_pads(conv: Any) -> list[int]:
    """The pads of a convolution, last axis first, in numbers also for ``padding="same"``."""
    pads = getattr(conv, _PADS, None)
    return list(_repeated(conv) if pads is None else pads)


def set_reversed_pads(conv: Any, pads: Sequence[int] | None = None) -> None:
    """Let ``reversed_pads`` and the convolution's own forward see ``pads``; None: as ``padding`` says."""
    setattr(conv, _PADS, list(_repeated(conv) if pads is None else pads))


def _repeated(conv: Any) -> list[int]:
    if conv.padding == "valid":
        return [0] * (2 * len(conv.kernel_size))
    if conv.padding == "same":
        totals = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        return [n for total in reversed(totals) for n in (total // 2, total - total // 2)]
    return [n for amount in reversed(conv.padding) for n in (amount, amount)]


# Whether anything watches what runs. What cannot be asked is taken for a watcher.
def _yes() -> bool:
    return True


_in_dispatch_mode: Callable[[], bool] = _yes
_any_global_hook: Callable[[], Any] = nn.modules.module.__dict__.get("_has_any_global_hook", _yes)
_tracing_state: Callable[[], Any] = getattr(torch._C, "_get_tracing_state", _yes)
_functorch: Any = getattr(torch._C, "_functorch", None)
_transform: Callable[[], Any] = getattr(_functorch, "peek_interpreter_stack", _yes)
_has_onednn: bool = getattr(torch._C, "_has_mkldnn", False)
_onednn_enabled: Callable[[], bool] = getattr(torch._C, "_get_mkldnn_enabled", lambda: False)
try:
    from torch.utils._python_dispatch import TorchDispatchMode
except ImportError:

    class TorchDispatchMode:  # type: ignore
        """A mode that sees no operator."""

        def __enter__(self) -> None:
            pass

        def __exit__(self, *error: object) -> None:
            pass


with contextlib.suppress(ImportError):
    from torch.utils._python_dispatch import is_in_torch_dispatch_mode

    _in_dispatch_mode = is_in_torch_dispatch_mode


def is_watched() -> bool:
    """Return whether a tracer, a dispatch mode or a transform sees every operator; True if unknown."""
    return _tracing_state() is not None or _in_dispatch_mode() or _transform() is not None


def has_global_hooks() -> bool:
    """Return whether global module hooks are registered; True if that is unknown."""
    return bool(_any_global_hook())


def has_onednn() -> bool:
    """Return whether oneDNN is available and enabled."""
    return _has_onednn and bool(_onednn_enabled())


# Weights.
def with_versions(state: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """``state`` with the versions of the layers of ``module``, which else take it for an old one."""
    result = OrderedDict(state)
    result._metadata = getattr(module.state_dict(), "_metadata", None)  # type: ignore[attr-defined]
    return result


# Memory and compilation.
def storage_key(tensor: Tensor) -> int:
    """A number that tensors share while they live if, and only if, they share their memory; fake ones too."""
    storage = tensor.untyped_storage()
    return int(getattr(storage, "_cdata", id(storage)))


def memory_steps(recorded: Any) -> list[int]:
    """Bytes allocated (freed: negative), in order, in a finished ``torch.profiler.profile`` with memory."""
    results = getattr(getattr(recorded, "profiler", None), "kineto_results", None)
    if results is not None:
        return [event.nbytes() for event in results.events() if event.name() == "[memory]"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        recorded.export_chrome_trace(str(file))
        events = json.loads(file.read_text(encoding="utf-8"))["traceEvents"]
    memory = [event for event in events if event.get("name") == "[memory]"]
    return [int(event["args"]["Bytes"]) for event in sorted(memory, key=lambda event: float(event["ts"]))]


# Classes of what ``torch.compile`` makes of a module, and the attribute that holds the module.
COMPILED = {"torch._dynamo.eval_frame.OptimizedModule": "_orig_mod"}


@contextlib.contextmanager
def compiled_functions_opened() -> Iterator[None]:
    """Meanwhile functions that were compiled by ``torch.compile`` may be traced: they run as written."""
    config = getattr(sys.modules.get("torch._dynamo"), "config", None)
    if config is None or not hasattr(config, "error_on_nested_fx_trace"):
        yield
    else:
        with config.patch(error_on_nested_fx_trace=False):
            yield


@contextlib.contextmanager
def freezing() -> Iterator[dict[str, Any] | None]:
    """While open, Inductor takes weights for constants. Yields the options to give to ``torch.compile``."""
    try:
        from torch._inductor import config
    except ImportError:
        yield {"freezing": True}
    else:
        with config.patch(freezing=True):
            yield None


# Nested containers.
@dataclass(frozen=True)
class _Form:
    """The form of a tree of lists, tuples, named tuples and dicts; ``kind`` None is a leaf."""

    kind: Any
    keys: tuple[Any, ...] = ()
    children: tuple[_Form, ...] = ()


def _is_node(kind: Any) -> bool:
    named = hasattr(kind, "_fields") or kind.__module__ == "torch.return_types"
    return (issubclass(kind, tuple) and named) or kind in (list, tuple, dict, OrderedDict, torch.Size)


def _descend(tree: Any, path: tuple[Any, ...], leaves: list[tuple[tuple[Any, ...], Any]]) -> _Form:
    kind = type(tree)
    if not _is_node(kind):
        leaves.append((path, tree))
        return _Form(None)
    items = tuple(tree.items() if isinstance(tree, dict) else enumerate(tree))
    below = tuple(_descend(value, (*path, key), leaves) for key, value in items)
    return _Form(kind, tuple(key for key, _ in items), below)


def _build(form: _Form, leaves: Iterator[Any]) -> Any:
    if form.kind is None:
        return next(leaves)
    values = [_build(child, leaves) for child in form.children]
    if issubclass(form.kind, dict):
        return form.kind(zip(form.keys, values, strict=True))
    return form.kind(*values) if hasattr(form.kind, "_fields") else form.kind(values)


def _flatten_with_path(tree: Any) -> tuple[list[tuple[tuple[Any, ...], Any]], _Form]:
    leaves: list[tuple[tuple[Any, ...], Any]] = []
    form = _descend(tree, (), leaves)
    return leaves, form


def _flatten(tree: Any) -> tuple[list[Any], _Form]:
    leaves, form = _flatten_with_path(tree)
    return [leaf for _, leaf in leaves], form


def _unflatten(leaves: Iterable[Any], form: _Form) -> Any:
    return _build(form, iter(leaves))


def _map(func: Callable[[Any], Any], tree: Any) -> Any:
    leaves, form = _flatten(tree)
    return _unflatten(map(func, leaves), form)


def _map_only(kind: Any, func: Callable[[Any], Any], tree: Any) -> Any:
    return _map(lambda leaf: func(leaf) if isinstance(leaf, kind) else leaf, tree)


def _leaves(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> list[Any]:
    if is_leaf is None:
        return _flatten(tree)[0]
    if is_leaf(tree) or not _is_node(type(tree)):
        return [tree]
    parts = tree.values() if isinstance(tree, Mapping) else tree
    return [leaf for part in parts for leaf in _leaves(part, is_leaf)]


try:
    from torch.utils._pytree import (
        TreeSpec,
        tree_flatten,
        tree_flatten_with_path,
        tree_leaves,
        tree_map,
        tree_map_only,
        tree_unflatten,
    )
except ImportError:
    TreeSpec = _Form  # type: ignore
    tree_flatten, tree_flatten_with_path, tree_leaves = _flatten, _flatten_with_path, _leaves  # type: ignore
    tree_map, tree_map_only, tree_unflatten = _map, _map_only, _unflatten  # type: ignore


def is_exported_operation(target: Any) -> bool:
    """Return whether a node's target is an operator overload, as the graphs of ``torch.export`` have them."""
    return type(target).__name__ == "OpOverload"


def unscripted(function: Any) -> Any:
    """The Python function that a function of ``torch.jit.script`` was made of; None if that is not kept."""
    return getattr(function, "_torchdynamo_inline", None)
