"""Private names of PyTorch: in one file, and the package goes on without any of them."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.profiler import ProfilerActivity, profile

from octify import compat
from octify.nn.settled import settled

PACKAGE = Path(compat.__file__).parent
PRIVATE = re.compile(
    r"\btorch(\.\w+)*\._[a-zA-Z]|_pytree|_reversed_padding_repeated_twice|_cdata|kineto_results|nn_module_stack"
    r"|\b_(ConvNd|ConvTransposeNd|BatchNorm|NormBase|DropoutNd|has_any_global_hook|orig_module_call)\b"
    r"|\b(?!self\b|super\(\))\w+\._(forward|backward)(_pre)?_hooks\b|\b_(format_target|gen_python_code)\b"
    r"|\b(?!self\b|traced\b)\w+\._(parameters|buffers|modules)\b|_call_impl|_check_input_dim"
)


def test_private_names_stand_in_one_file() -> None:
    files = [file for file in sorted(PACKAGE.rglob("*.py")) if file.name != "compat.py"]
    assert len(files) > 100
    wrong = [
        f"{file.relative_to(PACKAGE.parent)}:{number} {line.strip()}"
        for file in files
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if PRIVATE.search(line)
    ]
    assert not wrong, "\n".join(wrong)
    assert PRIVATE.search((PACKAGE / "compat.py").read_text(encoding="utf-8"))


# What a torch may not have any more: modules to hide, or the owner of a name and the name.
MODULES = ("torch.utils._pytree", "torch._subclasses.fake_tensor", "torch.utils._python_dispatch")
NAMES: tuple[tuple[Any, str], ...] = (
    (torch, "_assert"),
    (torch._C, "_nn"),
    (torch._C, "_get_tracing_state"),
    (torch._C, "_functorch"),
    (torch._C, "_has_mkldnn"),
    (torch._C, "_get_mkldnn_enabled"),
    (torch.fx._symbolic_trace, "_orig_module_call"),
    (torch.nn.modules.conv, "_ConvNd"),
    (torch.nn.modules.conv, "_ConvTransposeNd"),
    (torch.nn.modules.batchnorm, "_BatchNorm"),
    (torch.nn.modules.batchnorm, "_NormBase"),
    (torch.nn.modules.dropout, "_DropoutNd"),
    (torch.nn.modules.module, "_has_any_global_hook"),
)


def _without(*, modules: tuple[str, ...] = (), names: tuple[tuple[Any, str], ...] = ()) -> ModuleType:
    """A second compat, imported by a torch that lacks these."""
    spec = importlib.util.spec_from_file_location("compat_without", compat.__file__)
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patched, patch.dict(sys.modules, {"compat_without": made}):
        for module in modules:
            patched.setitem(sys.modules, module, None)
        for owner, name in names:
            patched.delattr(owner, name)
        spec.loader.exec_module(made)
    return made


BARE = _without(modules=MODULES, names=NAMES)


@pytest.mark.parametrize("module", MODULES)
def test_a_missing_module_is_done_without(module: str) -> None:
    assert set(compat.__all__) <= set(vars(_without(modules=(module,))))


@pytest.mark.parametrize(("owner", "name"), NAMES, ids=lambda value: value if isinstance(value, str) else "")
def test_a_missing_name_is_done_without(owner: Any, name: str) -> None:
    assert hasattr(owner, name), "this torch has it no more: compat.py may forget it"
    assert set(compat.__all__) <= set(vars(_without(names=((owner, name),))))


LAYERS: tuple[Callable[[], nn.Module], ...] = (
    *(lambda k=kind: k(2, 2, 1) for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d)),
    *(lambda k=kind: k(2, 2, 1) for kind in (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)),
    *(lambda k=kind: k(2) for kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)),
    *(lambda k=kind: k(2) for kind in (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout),
    *(lambda: nn.Linear(2, 2), lambda: nn.GroupNorm(1, 2), nn.ReLU),
    *(lambda: nn.LazyConv2d(2, 1), nn.LazyBatchNorm2d, nn.LazyInstanceNorm1d),
)


@pytest.mark.parametrize("family", ["ConvNd", "ConvTransposeNd", "BatchNorm", "NormBase", "Dropout"])
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_families_of_layers(family: str) -> None:
    members = [isinstance(make(), getattr(compat, family)) for make in LAYERS]
    assert 0 < sum(members) < len(members)
    assert [isinstance(make(), getattr(BARE, family)) for make in LAYERS] == members


def test_forwards_of_batch_norms() -> None:
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    assert all(kind.forward in compat.BATCH_NORM_FORWARDS for kind in kinds)
    assert nn.InstanceNorm2d.forward not in compat.BATCH_NORM_FORWARDS
    assert all(hasattr(nn.Conv2d, name) for name in compat.CONV_FORWARD)


Pair = namedtuple("Pair", "left right")
trees = st.recursive(
    st.integers() | st.none() | st.text(max_size=2),
    lambda below: (
        st.lists(below, max_size=3)
        | st.lists(below, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=2), below, max_size=3)
        | st.dictionaries(st.text(max_size=2), below, max_size=3).map(OrderedDict)
        | st.tuples(below, below).map(lambda both: Pair(*both))
    ),
    max_leaves=8,
)


@given(trees)
def test_trees(tree: Any) -> None:
    leaves, form = BARE.tree_flatten(tree)
    assert leaves == compat.tree_leaves(tree) == BARE.tree_leaves(tree)
    again = BARE.tree_unflatten(leaves, form)
    assert again == tree and type(again) is type(tree)
    assert BARE.tree_flatten(again)[1] == form and hash(BARE.tree_flatten(again)[1]) == hash(form)
    assert BARE.tree_map(repr, tree) == compat.tree_map(repr, tree)
    assert BARE.tree_map_only(int, str, tree) == compat.tree_map_only(int, str, tree)
    assert [leaf for _, leaf in BARE.tree_flatten_with_path(tree)[0]] == leaves


def test_trees_of_results() -> None:
    found = torch.max(torch.eye(3), dim=0)
    again = BARE.tree_map(torch.neg, found)
    assert type(again) is type(found) and again.values.equal(-found.values)
    assert BARE.tree_leaves(torch.Size((2, 3))) == compat.tree_leaves(torch.Size((2, 3)))
    with pytest.raises(StopIteration):
        BARE.tree_unflatten([], BARE.tree_flatten(found)[1])


@pytest.mark.parametrize("padding", [0, 1, (2, 1), "same", "valid"])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("kernel", [1, 2, (3, 4)])
def test_pads_are_those_of_torch(padding: Any, dilation: int, kernel: Any) -> None:
    conv = nn.Conv2d(1, 1, kernel, padding=padding, dilation=dilation)
    own = list(conv._reversed_padding_repeated_twice)
    assert compat.reversed_pads(conv) == own
    del conv._reversed_padding_repeated_twice
    assert compat.reversed_pads(conv) == own
    compat.set_reversed_pads(conv)
    assert list(conv._reversed_padding_repeated_twice) == own == compat.reversed_pads(settled(conv))
    compat.set_reversed_pads(conv, [1, 2, 3, 4])
    assert compat.reversed_pads(conv) == [1, 2, 3, 4]


def _noted(*_: Any) -> None:
    pass


HOOKS: tuple[tuple[str, Callable[[nn.Module], Any]], ...] = (
    ("forward_hooks", lambda module: module.register_forward_hook(_noted)),
    ("forward_pre_hooks", lambda module: module.register_forward_pre_hook(_noted)),
    ("backward_hooks", lambda module: module.register_full_backward_hook(_noted)),
    ("backward_hooks", lambda module: module.register_full_backward_pre_hook(_noted)),
)


@pytest.mark.parametrize(("asked", "hook"), HOOKS)
def test_hooks_are_seen_wherever_they_are_kept(asked: str, hook: Callable[[nn.Module], Any]) -> None:
    module = nn.Conv2d(1, 1, 1)
    read: Callable[[nn.Module], Any] = getattr(compat, asked)
    assert not read(module)
    hook(module)
    others = {name for name, _ in HOOKS} - {asked}
    assert list(read(module).values()) == [_noted]
    assert not any(getattr(compat, name)(module) for name in others)
    for name in [name for name in vars(module) if "hook" in name]:  # as if torch had renamed them all
        vars(module)[f"{name}_of_tomorrow"] = vars(module).pop(name)
    assert _noted in read(module).values()
    if asked.startswith("forward"):
        assert _noted in [each for table in compat.hook_tables(module) for each in table.values()]


def test_buffers_are_found() -> None:
    norm = nn.BatchNorm2d(2)
    assert compat.buffers_of(norm)["running_mean"] is norm.running_mean

    class Plain:
        running_mean = 0

    holder = Plain()
    assert compat.buffers_of(holder) is vars(holder)  # type: ignore[arg-type]


def test_what_cannot_be_asked_counts_as_a_watcher() -> None:
    assert not compat.is_watched() and not compat.has_global_hooks()
    assert BARE.is_watched() and BARE.has_global_hooks() and not BARE.has_onednn()
    for owner, name in ((torch._C, "_functorch"), (torch._C, "_get_tracing_state")):
        assert _without(names=((owner, name),)).is_watched()
    assert _without(modules=("torch.utils._python_dispatch",)).is_watched()


def test_watchers_are_seen() -> None:
    seen: list[bool] = []

    def note(x: Tensor) -> Tensor:
        seen.append(compat.is_watched())
        return x + 1

    torch.func.vmap(note)(torch.ones(2))
    with compat.FakeTensorMode():
        note(torch.ones(2))
    assert seen == [True, True]


@pytest.mark.parametrize("key", [compat.storage_key, BARE.storage_key])
@pytest.mark.parametrize("hidden", [False, True])
def test_storages_are_told_apart(key: Callable[[Tensor], int], hidden: bool) -> None:
    class Storage:  # of a torch whose storages do not tell their address
        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor

        def untyped_storage(self) -> object:
            return storages[self.tensor.untyped_storage().data_ptr()]

    one, other = torch.zeros(4), torch.zeros(4)
    storages = {t.untyped_storage().data_ptr(): object() for t in (one, other)}
    tensors: list[Any] = [one, one[1:], one.view(2, 2), other]
    keys = [key(Storage(t) if hidden else t) for t in tensors]  # type: ignore[arg-type]
    assert keys[0] == keys[1] == keys[2] != keys[3]


def test_fake_storages_are_told_apart() -> None:
    with compat.FakeTensorMode():
        one, other = torch.zeros(4), torch.zeros(4)
        assert compat.storage_key(one) == compat.storage_key(one[1:]) != compat.storage_key(other)
        assert id(one.untyped_storage()) == id(one[1:].untyped_storage()) != id(other.untyped_storage())


def test_memory_is_read_from_the_written_trace() -> None:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        x = torch.zeros(1000, 100)
        y = x + 1
        del x
        z = y * 2
    steps = compat.memory_steps(recorded)
    assert sum(steps) == (y.numel() + z.numel()) * 4

    class Bare:
        export_chrome_trace = recorded.export_chrome_trace

    assert compat.memory_steps(Bare()) == steps


def test_freezing_is_asked_of_the_compiler_where_it_cannot_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    with compat.freezing() as options:
        from torch._inductor import config

        assert options is None and config.freezing
    assert not config.freezing
    monkeypatch.setitem(sys.modules, "torch._inductor", None)
    with compat.freezing() as options:
        assert options == {"freezing": True}


def test_sizes_are_known_without_fake_tensors() -> None:
    with BARE.FakeTensorMode(allow_non_fake_inputs=True):
        assert nn.Conv2d(3, 4, 3)(torch.zeros(1, 3, 8, 8)).shape == (1, 4, 6, 6)


@pytest.mark.parametrize("bare", [False, True])
def test_a_model_is_traced_alike(bare: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from octify.trace import calls, facts, tracer
    from octify.trace.trace import trace

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.deep = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            torch._assert(x.ndim == 4, "an image")
            y = F.leaky_relu(self.conv(x))
            if y.shape[2] % 2 == 0:
                y = self.deep(y)
            return y

    if bare:
        for module in (calls, facts, tracer):
            monkeypatch.setattr(module, "FakeTensorMode", BARE.FakeTensorMode)
        monkeypatch.setattr(tracer, "module_call", BARE.module_call)
    traced = trace(Net(), torch.zeros(1, 3, 8, 8))
    shapes = {node.name: traced.facts[node.name].shape for node in traced.module.graph.nodes}
    assert shapes["conv"] == shapes["deep"] == (1, 4, 8, 8)
    assert not [node for node in traced.module.graph.nodes if node.target is torch._assert]


def test_functions_without_a_wrapper() -> None:
    assert compat.native("leaky_relu", "no_such_function") == (torch._C._nn.leaky_relu,)
    with pytest.MonkeyPatch.context() as patched:
        patched.delattr(torch._C, "_nn")
        assert BARE.native("leaky_relu") == ()
    assert BARE.ASSERTIONS == ()


def test_the_stack_of_modules() -> None:
    graph = fx.symbolic_trace(nn.Sequential(nn.Sequential(nn.ReLU()))).graph
    (node,) = graph.find_nodes(op="call_module", target="0.0")
    assert compat.module_stack(node)[-1] == "0.0"
    node.meta.clear()
    assert compat.module_stack(node) == []


def test_names_that_are_keywords_need_what_may_go(monkeypatch: pytest.MonkeyPatch) -> None:
    from octify.trace.keywords import with_any_names

    model = nn.Module()
    model.heads = nn.ModuleDict({"class": nn.ReLU(), "plain": nn.ReLU()})
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.output(graph.call_module("heads.class", (x,)))
    with_any_names(graph)
    assert "getattr(self.heads, 'class')" in graph.python_code("self").src
    monkeypatch.setattr(fx.graph, "_format_target", lambda base, target: f"{base}.{target}")
    patched = [node for node in graph.nodes if node.op == "call_module"]
    patched[0].target = "heads.plain"
    monkeypatch.setattr("octify.compat.hasattr", lambda owner, name: False, raising=False)
    assert "self.heads.plain(x)" in graph.python_code("self").src
