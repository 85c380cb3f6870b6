"""Proxies that know their sizes, for code whose control flow depends on them.

Plain symbolic tracing gives up at ``if x.shape[2] % 2``. Here every value is also computed on fake
tensors while it is traced. A size is recorded as ``x.size(2)``, and stays open through arithmetic. Where
Python must know it (``if``, ``range``), the example's answer is given, and the question is recorded with its
answer (``octify.nn.guard``): at a size for which the answer is another, the graph stops. Numbers of channels
(``octify.trace.twins``) are constants; nothing that depends on the batch is told.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.overrides import TorchFunctionMode

from octify.compat import storage_key, tree_leaves
from octify.nn.assign import assigned
from octify.nn.guard import holds
from octify.trace.asked import is_of_types, lacks
from octify.trace.batches import Batches, asks_if_empty
from octify.trace.inplace import InPlaceProxy
from octify.trace.instances import instance_of, read_by_python
from octify.trace.twins import Question, Twins, asking_line
from octify.trace.unlogged import unlogged
from octify.trace.views import is_number


class Sizes(tuple[Any, ...]):
    """A shape: proxies of what is open, numbers of channels."""

    def __hash__(self) -> int:
        if any(map(_is_open, self)):
            raise TypeError("a shape that is being traced is no key: a cache would keep it")
        return super().__hash__()

    def numel(self) -> Any:
        """The product of all sizes."""
        product: Any = 1
        for size in self:
            product = size * product
        return product

    def __getitem__(self, index: Any) -> Any:
        picked = super().__getitem__(index)
        return Sizes(picked) if isinstance(index, slice) else picked

    def __fx_create_arg__(self, tracer: fx.Tracer) -> Any:
        return tuple(tracer.create_arg(size) for size in self)


class SizedProxy(InPlaceProxy):
    """A proxy that answers questions about sizes where its tracer knows them."""

    _is_param = False  # what torch asks of a tensor that is set as an attribute of a module
    _is_buffer = False

    def _fake_value(self) -> Any:
        tracer: Any = self.tracer
        return tracer.fake_value(self)

    def _tensor(self) -> Tensor | None:
        value = self._fake_value()
        return value if isinstance(value, Tensor) else None

    @property
    def __class__(self) -> type:
        """``x.__class__`` is that of the value, to Python code; to compiled code it is the proxy's own."""
        return type(self.python_value()) if read_by_python() else type(self)

    @__class__.setter
    def __class__(self, kind: type) -> None:
        raise TypeError("a proxy's class cannot be changed")

    def python_value(self) -> Any:
        """``isinstance(x, Tensor)`` is true of a tensor's proxy, ``isinstance(h, int)`` of a size's."""
        value = self._fake_value()
        if isinstance(value, Tensor):
            return instance_of(value.dtype)
        return value if type(value) in (int, float, bool) else self

    def __getattr__(self, name: str) -> Any:
        if lacks(self._fake_value(), name) or name.startswith("__array_"):  # NumPy computes with sizes, too
            raise AttributeError(f"'Tensor' object has no attribute '{name}'")
        if name in _OF_NUMPY and isinstance(self._fake_value(), (int, float)):
            return lambda: self._number(getattr(math, name))
        return fx.Proxy.__getattr__(self, name)

    @property
    def shape(self) -> Any:
        """The tensor's sizes."""
        tensor = self._tensor()
        if tensor is None:  # recorded as what has a length: FX's attributes have none
            return self.tracer.create_proxy("call_function", getattr, (self, "shape"), {})
        return self._sizes(tensor)

    def size(self, dim: int | None = None) -> Any:
        """The tensor's sizes, or one of them."""
        tensor = self._tensor()
        if tensor is None:
            return self.tracer.create_proxy(
                "call_method", "size", (self, *(() if dim is None else (dim,))), {}
            )
        sizes = self._sizes(tensor)
        return sizes if dim is None else sizes[dim]

    def _sizes(self, tensor: Tensor) -> Sizes:
        tracer: Any = self.tracer
        return Sizes(tracer.one_size(self, dim, int(size)) for dim, size in enumerate(tensor.shape))

    def _answer(self, name: str, ask: Callable[[Tensor], Any]) -> Any:
        tensor = self._tensor()
        return fx.Proxy.__getattr__(self, name) if tensor is None else ask(tensor)

    @property
    def ndim(self) -> Any:
        """The number of dimensions."""
        return self._answer("ndim", lambda tensor: tensor.ndim)

    @property
    def dim(self) -> Any:
        """The method that tells the number of dimensions."""
        return self._answer("dim", lambda tensor: tensor.dim)

    @property
    def dtype(self) -> Any:
        """The tensor's dtype."""
        return self._answer("dtype", lambda tensor: tensor.dtype)

    @property
    def is_floating_point(self) -> Any:
        """The method that tells whether the dtype is a floating one."""
        return self._answer("is_floating_point", lambda tensor: tensor.is_floating_point)

    def __index__(self) -> int:
        return int(self._python_number(int))

    def __int__(self) -> int:
        return int(self._python_number(int, float))

    def __float__(self) -> float:
        return float(self._python_number(int, float))

    def _python_number(self, *kinds: type) -> Any:
        """The number that Python must have."""
        value = self._fake_value()
        if not isinstance(value, kinds):
            raise TypeError("symbolically traced variables cannot be used as numbers")
        tracer: Any = self.tracer
        tracer.decide(self, value)
        return value

    def _number(self, function: Any, *args: Any) -> Any:
        return self.tracer.create_proxy("call_function", function, (self, *args), {})

    def __round__(self, digits: int | None = None) -> Any:
        return self._number(round, *(() if digits is None else (digits,)))

    def __trunc__(self) -> Any:
        return self._number(math.trunc)

    def __floor__(self) -> Any:
        return self._number(math.floor)

    def __ceil__(self) -> Any:
        return self._number(math.ceil)

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __len__(self) -> int:
        tracer: Any = self.tracer
        if self._tensor() is not None:  # Python's len must be a number, and this is the batch
            return super().__len__()
        length: int | None = tracer.length(self)
        return super().__len__() if length is None else length


class RecordBatch(TorchFunctionMode):
    """Records functions of numbers or constants that are given a proxy of a number.

    ``torch.zeros(batch, 3)`` has no proxy of a tensor to be recorded by, and would make a constant.
    """

    def __init__(self, tracer: SizedTracer) -> None:
        super().__init__()
        self._tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves = [each for leaf in tree_leaves((args, kwargs)) for each in _ends(leaf)]
        if self._tracer.computing or _recorded_by_fx(types, leaves) or not any(map(_is_open, leaves)):
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if args and isinstance(args[0], Tensor) and getattr(Tensor, name, None) is func:
            return self._tracer.create_proxy("call_method", name, args, kwargs)
        return self._tracer.create_proxy("call_function", func, args, kwargs)


def _recorded_by_fx(types: Any, leaves: Sequence[Any]) -> bool:
    """Return whether FX records the call: it finds proxies among the arguments, not inside a shape."""
    own = [kind for kind in types if issubclass(kind, fx.Proxy)]
    return bool(own) and all(any(issubclass(type(leaf), kind) for leaf in leaves) for kind in own)


def _ends(leaf: Any) -> Sequence[Any]:
    return (leaf.start, leaf.stop, leaf.step) if isinstance(leaf, slice) else (leaf,)


def _are_one(a: Any, b: Any) -> bool:
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)) or a.layout is not torch.strided:
        return False
    return storage_key(a) == storage_key(b) and _place(a) == _place(b)


def _place(x: Tensor) -> tuple[Any, ...]:
    """Shape, strides (where they matter) and start of a tensor in its memory."""
    strides = tuple(s for n, s in zip(x.shape, x.stride(), strict=True) if n != 1)
    return tuple(x.shape), strides, x.storage_offset()


def _is_open(leaf: Any) -> bool:
    return type(leaf) in (Sizes, SizedProxy, InPlaceProxy, fx.proxy.Attribute)


def _is_shape(node: fx.Node) -> bool:
    """Return whether a node is a whole shape."""
    if node.target is getattr:
        return node.args[1] == "shape"
    return node.target == "size" and len(node.args) + len(node.kwargs) == 1


_OF_NUMPY = ("sqrt", "exp", "log", "log2")  # methods that NumPy's functions call of numbers they do not know
_INTO_A_NUMBER = ("chunk", "tensor_split")  # of parts, unless there are fewer samples than that
_BY_SIZE = ("split", "unbind", "hsplit", "vsplit", "dsplit")


def _depends_on_size(node: fx.Node, source: Any, length: int) -> bool:
    """Return whether the length of the sequence that ``node`` computes may depend on the height or width.

    The number of parts along the channels is the model's own; along positions it is not.
    """
    name = str(getattr(node.target, "__name__", node.target)).rpartition(".")[2]
    if name not in (*_INTO_A_NUMBER, *_BY_SIZE) or not isinstance(source, Tensor):
        return False
    arguments = dict(zip(("parts", "dim"), node.args[1:], strict=False)) | dict(node.kwargs)
    if name == "unbind":
        arguments = {"dim": arguments.get("dim", arguments.get("parts", 0))}
    parts = next((value for key, value in arguments.items() if key != "dim"), None)
    if isinstance(parts, (tuple, list)) or (name in _INTO_A_NUMBER and parts == length):
        return False
    dim = arguments.get("dim", 0)
    return not (isinstance(dim, int) and dim % source.ndim == 1 and source.ndim > 3)


class SizedTracer(fx.Tracer):
    """A tracer whose values are computed on fake tensors as they are traced.

    ``sizes_known`` says whether proxies answer at this place of the model; ``questions`` holds what they
    were asked.
    """

    def __init__(self, mode: Any) -> None:
        super().__init__(autowrap_functions=(holds, assigned))
        self._mode = mode
        self._values: dict[fx.Node, Any] = {}
        self._batches: set[fx.Node] = set()  # nodes of numbers that depend on a first dimension
        self._channels: set[fx.Node] = set()  # nodes of numbers of the inputs' channels
        self._twins: Twins | None = None
        self.questions: list[Question] = []
        self.batches = Batches(lines=frozenset())
        self.computing = False
        self.asks_types = False

    @property
    def sizes_known(self) -> bool:
        """Return whether sizes are available here; a subclass decides."""
        return False

    def fake_value(self, proxy: fx.Proxy) -> Any:
        """The fake value of ``proxy``; None where it is unknown, or not to be told (here)."""
        if self._mode is None or not self.sizes_known or proxy.node in self._batches:
            return None
        return self._values.get(proxy.node)

    def is_number(self, proxy: fx.Proxy) -> bool:
        """Return whether ``proxy`` stands for a size, or for what is computed from sizes alone."""
        if self._mode is None:
            return is_number(proxy.node) and not _is_shape(proxy.node)
        return isinstance(self._values.get(proxy.node), (int, float))

    def knows_number(self, proxy: fx.Proxy) -> bool:
        """Return whether ``proxy`` stands for a number whose value is available."""
        return self._mode is not None and self.is_number(proxy)

    @property
    def twins(self) -> Twins:
        """The values at other sizes of the inputs."""
        if self._twins is None:
            inputs = {node: value for node, value in self._values.items() if node.op == "placeholder"}
            self._twins = Twins(inputs, self._mode, self._run)
        return self._twins

    def one_size(self, proxy: fx.Proxy, dim: int, size: int) -> Any:
        """Dimension ``dim`` of a tensor, ``size`` in the example: a number, or a proxy of one."""
        if self.twins.is_constant(proxy.node, dim):
            return size
        size_proxy = self.create_proxy("call_method", "size", (proxy, dim), {})
        if self.twins.is_batch(proxy.node, dim, size):
            self._batches.add(size_proxy.node)
        elif self.twins.is_channels(proxy.node, dim):
            self._channels.add(size_proxy.node)
        return size_proxy

    def are_one(self, a: fx.Node, b: fx.Node) -> bool:
        """Return whether two nodes are the same entries of the same memory, whatever the inputs' sizes."""
        return _are_one(self._values.get(a), self._values.get(b)) and all(
            _are_one(one, other) for one, other in self.twins.pairs(a, b)
        )

    def share(self, a: fx.Node, b: fx.Node) -> bool | None:
        """Return whether two tensors share memory; None where it is unknown, or depends on their sizes."""
        pairs = [(self._values.get(a), self._values.get(b)), *self.twins.pairs(a, b)]
        if not all(isinstance(one, Tensor) and isinstance(other, Tensor) for one, other in pairs):
            return None
        answers = {storage_key(one) == storage_key(other) for one, other in pairs}
        return answers.pop() if len(answers) == 1 else None

    def count(self, node: fx.Node) -> int | None:
        """The number of members of a tuple; None where it is unknown, or depends on the inputs' sizes."""
        value = self._values.get(node)
        if not isinstance(value, (tuple, list)):
            return None
        return len(value) if self.twins.lengths(node) == (len(value), len(value)) else None

    def notice(self, node: fx.Node) -> None:
        """Compute a node that was added to the graph."""
        value = self._computed(node)
        if value is not None:
            self._values[node] = value
        self.twins.notice(node)

    def decide(self, proxy: fx.Proxy, answer: Any) -> None:
        """Record that the model's code went on with ``answer``, unless no size can change it."""
        if is_of_types(proxy.node):
            return
        question = asking_line(self.path_now, answer)
        if question.fixes or not self._is_of_channels(proxy.node):
            self.questions.append(question)
        self.create_proxy("call_function", holds, (proxy, answer, question.text, question.where), {})

    def _is_of_channels(self, node: fx.Node) -> bool:
        """Return whether a number depends only on the inputs' channels, whose number is fixed."""
        sources = node.all_input_nodes
        return node in self._channels or (bool(sources) and all(map(self._is_of_channels, sources)))

    @property
    def path_now(self) -> str:
        """Path of the module that is being traced."""
        return next(reversed(self.module_stack.values()))[0] if self.module_stack else ""

    def length_of(self, proxy: fx.Proxy) -> Any:
        """``len(proxy)``: of a tensor its batch, which stays open."""
        if isinstance(self._values.get(proxy.node), Tensor):
            return self.create_proxy("call_method", "size", (proxy, 0), {})
        return proxy.__len__()

    def length(self, proxy: fx.Proxy) -> int | None:
        """The number of entries of a sequence, wherever in the model no size decides it; None if unknown."""
        value = self._values.get(proxy.node)
        if self._mode is None or not isinstance(value, (tuple, list)):
            return None
        sources = proxy.node.all_input_nodes
        source = self._values.get(sources[0]) if sources else None
        lengths = self.twins.lengths(proxy.node)
        if lengths[0] not in (None, len(value)):  # the batch decides
            return None
        if _depends_on_size(proxy.node, source, len(value)) or lengths[1] not in (None, len(value)):
            if not self.sizes_known:
                return None
            self.decide(self.create_proxy("call_function", len, (proxy,), {}), len(value))
        return len(value)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return (InPlaceProxy if self._mode is None else SizedProxy)(node, self)

    def create_arg(self, a: Any) -> Any:
        # By type: a proxy of a tensor passes for one, and would be taken for a constant.
        return a.node if type(a) in (SizedProxy, InPlaceProxy) else super().create_arg(a)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **options: Any) -> Any:
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **options)
        if self._mode is not None and kind != "placeholder" and target is not holds:
            value = self._computed(proxy.node)
            if value is not None:
                self._values[proxy.node] = value
                if not isinstance(value, Tensor) and self._depends_on_batch(proxy.node):
                    self._batches.add(proxy.node)
        return proxy

    def _depends_on_batch(self, node: fx.Node) -> bool:
        source = self._values.get(node.all_input_nodes[0]) if node.all_input_nodes else None
        if isinstance(source, Tensor):
            if node.target in ("size", getattr) and len(node.args) > 1:
                return node.args[1] in (0, -source.ndim, "shape")
            return node.target in ("size", "numel", "nelement")
        if isinstance(source, torch.Size) and node.target is operator.getitem:
            return not isinstance(node.args[1], int) or node.args[1] in (0, -len(source))
        return any(n in self._batches for n in node.all_input_nodes)

    def set_value(self, proxy: fx.Proxy, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        """Tell what a placeholder is, on the model's device: fake tensors of two do not mix."""
        if self._mode is not None:
            device = next((p.device for p in self.root.parameters()), torch.device("cpu"))
            with self._mode:
                self._values[proxy.node] = torch.empty(shape, dtype=dtype, device=device)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val if self.computing else super().getattr(attr, attr_val, parameter_proxy_cache)

    def to_bool(self, obj: fx.Proxy) -> bool:
        value = self.fake_value(obj)
        if isinstance(value, (bool, int, float)):
            condition = (
                obj if isinstance(value, bool) else self.create_proxy("call_function", bool, (obj,), {})
            )
            self.decide(condition, bool(value))
            return bool(value)
        # The batch of one value is the batch of another, whatever it is.
        node = obj.node
        batches = self.sizes_known and all(n in self._batches for n in node.args)
        if batches and node.target is operator.eq and self._values.get(node):
            return True
        answer = self._answered(obj) if self.sizes_known and node in self._batches else None
        return super().to_bool(obj) if answer is None else answer

    def _answered(self, proxy: fx.Proxy) -> bool | None:
        """The answer to a question about the batch that makes no difference; None where it may make one."""
        value = self._values.get(proxy.node)
        if not isinstance(value, (bool, int, float)):
            return None
        question = asking_line(self.path_now, bool(value))
        if asks_if_empty(proxy.node):
            self.create_proxy("call_function", holds, (proxy, value, question.text, question.where), {})
            return bool(value)
        answer = self.batches.answer(question, bool(value))
        if answer is not None and self.batches.is_checked(question):
            self.decide(self.create_proxy("call_function", bool, (proxy,), {}), answer)
        return answer

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        length = self.length(obj)
        if length is None:  # a tensor, too: its first dimension is the batch, whose size must stay open
            return super().iter(obj)
        return iter(
            [self.create_proxy("call_function", operator.getitem, (obj, i), {}) for i in range(length)]
        )

    def call_module(self, m: Any, forward: Any, args: Any, kwargs: Any) -> Any:
        return forward(*args, **kwargs) if self.computing else super().call_module(m, forward, args, kwargs)

    def _has(self, node: fx.Node) -> bool:
        if node not in self._values and node.op == "get_attr":  # a constant, which has no proxy
            self._values[node] = operator.attrgetter(str(node.target))(self.root)
        return node in self._values

    def _computed(self, node: fx.Node) -> Any:
        """The node's value on fake tensors; None if it cannot be had."""
        if self.computing or not all(self._has(n) for n in node.all_input_nodes):
            return None
        return self._run(node, self._values)

    def _run(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
        """``node`` computed from ``values``; None if it cannot be."""
        args = fx.map_arg(node.args, values.__getitem__)
        kwargs = fx.map_arg(node.kwargs, values.__getitem__)
        self.computing = True
        try:
            with self._mode, torch.no_grad(), unlogged():
                if node.op == "call_function":
                    return node.target(*args, **kwargs)  # type: ignore[operator]
                if node.op == "call_method":
                    return getattr(args[0], str(node.target))(*args[1:], **kwargs)
                attribute = operator.attrgetter(str(node.target))(self.root)
                return attribute(*args, **kwargs) if node.op == "call_module" else attribute
        except Exception:  # a value that only real data has
            return None
        finally:
            self.computing = False
