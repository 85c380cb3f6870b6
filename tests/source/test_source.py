"""Model sources: what a MODEL argument means, and what its mistakes are told as."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from octify.errors import SourceError
from octify.source import load_source, load_weights, parse_shape, parse_target
from tests.places import SAMPLES

HEAD = "import torch\nfrom torch import nn\n"
NET = HEAD + textwrap.dedent(
    """
    class Net(nn.Module):
        def __init__(self, width=4):
            super().__init__()
            self.conv = nn.Conv2d(3, width, 3, padding=1)
        def forward(self, x):
            return self.conv(x)
    """
)


@pytest.fixture
def write(tmp_path: Path):
    """Write Python text to ``tmp_path/model.py`` and return its path as a target."""

    def write(text: str, name: str = "model.py") -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return str(path)

    return write


def line_of(target: str, text: str) -> int:
    lines = Path(target).read_text().splitlines()
    return 1 + next(number for number, line in enumerate(lines) if text in line)


# --- what is built --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rest", "width"),
    [
        ("model = Net(5)\ndef build_model(): return Net(6)\n", 5),
        ("def model(): return Net(5)\n", 5),
        ("def build_model(): return Net(6)\n", 6),
        ("def get_model(): return Net(7)\n", 7),
        ("def create_model(width=8): return Net(width)\n", 8),
        ("def get_model(width): return Net(width)\ndef create_model(): return Net(9)\n", 9),
        ("", 4),
        ("class Block(nn.Module):\n    def __init__(self, c): pass\n", 4),
        ("def get_model(width): return Net(width)\n", 4),
    ],
    ids=[
        "model",
        "model-function",
        "build",
        "get",
        "create",
        "only-ready-factory",
        "class",
        "needy-class",
        "else",
    ],
)
def test_a_file_without_a_name(write, rest: str, width: int) -> None:
    source = load_source(write(NET + rest))
    assert source.model.conv.out_channels == width
    assert not source.model.training


@pytest.mark.parametrize(
    ("name", "width"), [("small", 2), ("Net", 4), ("make", 3), ("Nets.wide", 9)], ids=str
)
def test_a_named_instance_class_factory_and_attribute(write, name: str, width: int) -> None:
    rest = """
    small = Net(2)
    def make(): return Net(3)
    class Nets:
        wide = Net(9)
    model = Net(1)
    """
    target = f"{write(NET + textwrap.dedent(rest))}:{name}"
    source = load_source(target)
    assert source.model.conv.out_channels == width
    assert source.target == target
    assert source.name == f"model-{name}"
    assert source.file == Path(target.rpartition(":")[0])


def test_a_module_in_the_current_folder(write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write("", "nets_pkg/__init__.py")
    write(NET + "example_inputs = torch.zeros(2, 3, 5, 5)\n", "nets_pkg/small.py")
    monkeypatch.chdir(tmp_path)
    source = load_source("nets_pkg.small:Net")
    assert source.file is None
    assert source.example_inputs[0].shape == (2, 3, 5, 5)


def test_the_models_folder_is_importable_and_its_files_are_found(write, tmp_path: Path) -> None:
    write("WIDTH = 11\n", "sibling_of_model.py")
    text = NET + textwrap.dedent(
        """
        from pathlib import Path
        from sibling_of_model import WIDTH
        def build_model():
            import late_sibling
            net = Net(WIDTH)
            net.load_state_dict(torch.load(Path(__file__).parent / "w.pt", weights_only=True))
            return net
        def example_inputs():
            from late_sibling import SIZE
            return torch.ones(1, 3, SIZE, SIZE)
        """
    )
    write("SIZE = 6\n", "late_sibling.py")
    state = {"conv.weight": torch.full((11, 3, 3, 3), 0.25), "conv.bias": torch.zeros(11)}
    torch.save(state, tmp_path / "w.pt")
    source = load_source(write(text))
    assert torch.equal(source.model.conv.weight, state["conv.weight"])
    assert source.example_inputs[0].shape == (1, 3, 6, 6)


def test_two_files_of_one_name_stay_apart(write) -> None:
    first = load_source(write(NET + "model = Net(2)\n", "a/net.py"))
    second = load_source(write(NET + "model = Net(3)\n", "b/net.py"))
    assert (first.model.conv.out_channels, second.model.conv.out_channels) == (2, 3)


def test_a_run_is_reproducible_and_leaves_the_callers_generator_alone(write) -> None:
    target = write(NET)
    torch.manual_seed(123)
    expected = torch.randn(4)
    torch.manual_seed(123)
    first = load_source(target, inputs=["1x3x8x8"])
    assert torch.equal(torch.randn(4), expected)
    second = load_source(target, inputs=["1x3x8x8"])
    other = load_source(target, inputs=["1x3x8x8"], seed=1)
    assert torch.equal(first.model.conv.weight, second.model.conv.weight)
    assert torch.equal(first.example_inputs[0], second.example_inputs[0])
    assert not torch.equal(first.model.conv.weight, other.model.conv.weight)
    assert not torch.equal(first.example_inputs[0], other.example_inputs[0])


def test_every_sample_loads() -> None:
    samples = SAMPLES
    models = [path for path in sorted(samples.glob("*.py")) if "example_inputs" in path.read_text()]
    assert len(models) >= 5
    for path in models:
        source = load_source(str(path))
        with torch.no_grad():
            assert source.model(*source.example_inputs) is not None


# --- zoos -----------------------------------------------------------------------------------------


def test_timm_models_come_with_their_own_input_size() -> None:
    source = load_source("timm:resnet10t")  # made for 176 x 176
    assert [tuple(x.shape) for x in source.example_inputs] == [(1, 3, 176, 176)]
    assert source.name == "resnet10t"


@pytest.mark.parametrize(
    ("name", "shape"), [("resnet18", (1, 3, 224, 224)), ("r3d_18", (1, 3, 16, 112, 112))]
)
def test_torchvision_models_and_their_inputs(name: str, shape: tuple[int, ...]) -> None:
    source = load_source(f"torchvision:{name}")
    assert tuple(source.example_inputs[0].shape) == shape


def test_torchvision_segmentation_models_download_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    source = load_source("torchvision:lraspp_mobilenet_v3_large")
    assert isinstance(source.model, nn.Module)


@pytest.mark.parametrize(
    ("target", "near"), [("timm:resnet5O", "resnet50"), ("torchvision:resnet5O", "resnet50")]
)
def test_an_unknown_zoo_model_is_told_with_its_neighbours(target: str, near: str) -> None:
    with pytest.raises(SourceError, match="has no model") as caught:
        load_source(target)
    assert near in str(caught.value)


# --- inputs ---------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=5), st.sampled_from(["", ":int64", ":float16", ":bool"])
)
def test_shapes_are_read_back_as_written(sizes: list[int], suffix: str) -> None:
    text = "x".join(map(str, sizes)) + suffix
    shape = parse_shape(text)
    assert shape.sizes == tuple(sizes)
    assert str(shape) == text
    assert shape.dtype == (suffix[1:] or "float32")


@pytest.mark.parametrize(
    "text", ["", "x", "1x", "1xx3", "1x-3", "0x3", "1x3.5", "axb", "1x3:floot", "1x3:", "²x3"]
)
def test_what_is_not_a_shape_is_refused(text: str) -> None:
    with pytest.raises(SourceError, match="--input"):
        parse_shape(text)


def test_the_order_in_which_inputs_are_looked_for(write) -> None:
    declared = write(NET + "example_inputs = (torch.zeros(1, 3, 7, 7), torch.zeros(2))\n")
    assert [tuple(x.shape) for x in load_source(declared).example_inputs] == [(1, 3, 7, 7), (2,)]
    given_shapes = load_source(declared, inputs=["2x3x5x5", "1x4:int64"]).example_inputs
    assert [(tuple(x.shape), x.dtype) for x in given_shapes] == [
        ((2, 3, 5, 5), torch.float32),
        ((1, 4), torch.int64),
    ]
    assert set(given_shapes[1].unique().tolist()) <= {0, 1}
    assert load_source(write(NET)).example_inputs[0].shape == (1, 3, 224, 224)


@pytest.mark.parametrize(
    ("value", "told"),
    [("'abc'", "str at position 0"), ("(torch.ones(1), 3)", "int at position 1"), ("()", "empty")],
)
def test_example_inputs_that_are_not_tensors(write, value: str, told: str) -> None:
    with pytest.raises(SourceError, match="example_inputs must be") as caught:
        load_source(write(NET + f"example_inputs = {value}\n"))
    assert told in str(caught.value)


def test_an_input_too_large_for_any_machine_is_told(write) -> None:
    with pytest.raises(SourceError, match="cannot be made"):
        load_source(write(NET), inputs=["99999999x99999999x9"])


# --- mistakes in the model file -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "marker", "reason"),
    [
        ("x = 1\ndef f(:\n", "def f(:", "SyntaxError"),
        ("x = 1\n\ny = 1 / 0  # here\n", "# here", "ZeroDivisionError"),
        ("def g():\n    raise KeyError('k')  # here\ng()\n", "# here", "KeyError: 'k'"),
        ("import no_such_module_xyz  # here\n", "# here", "no_such_module_xyz"),
        ("import sys\nsys.exit(3)  # here\n", "# here", "SystemExit"),
        (NET + "def build_model():\n    return Net('a')  # here\n", "conv = nn.Conv2d", "TypeError"),
        (NET + "def example_inputs():\n    raise ValueError('no')  # here\n", "# here", "ValueError: no"),
    ],
    ids=["syntax", "exception", "in-function", "import", "exit", "factory", "example_inputs"],
)
def test_failures_in_the_users_code_are_told_with_its_line(
    write, text: str, marker: str, reason: str
) -> None:
    target = write(text)
    with pytest.raises(SourceError) as caught:
        load_source(target)
    assert caught.value.where == f"{target}:{line_of(target, marker)}"
    assert reason in str(caught.value.why)


def test_several_candidates_are_listed(write) -> None:
    target = write(NET + "class Other(Net): pass\n")
    with pytest.raises(SourceError, match="several") as caught:
        load_source(target)
    assert f"{target}:Net" in str(caught.value) and f"{target}:Other" in str(caught.value)
    with pytest.raises(SourceError, match="several"):
        load_source(write(NET + "def get_model(): return Net()\ndef build_model(): return Net()\n"))


@pytest.mark.parametrize(
    ("text", "suffix", "told"),
    [
        ("x = 1\n", "", "there is no model"),
        (NET + "def build_model(width, depth): ...\ndel Net\n", "", "width, depth"),
        (NET, ":Nett", ":Net"),
        (NET + "thing = 3\n", ":thing", "is a int"),
        (NET + "def make(): return 3\n", ":make", "returned a int"),
        (NET + "def make(depth, *, width): return Net(width)\n", ":make", "it needs depth, width"),
        (NET + "class Needy(nn.Module):\n    def __init__(self, c): pass\n", ":Needy", "it needs c"),
    ],
    ids=["none", "needy-factory", "misspelt", "not-a-model", "returns-other", "named-needy", "needy-class"],
)
def test_no_model_to_be_had(write, text: str, suffix: str, told: str) -> None:
    with pytest.raises(SourceError) as caught:
        load_source(write(text) + suffix)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("nosuch.py", "no such file"),
        ("nosuch.py:net", "no such file"),
        ("no.such.module:net", "no Python module"),
        ("nosuch", "does not name a model"),
        ("weights.pth", "holds weights"),
        ("net.onnx", "ONNX"),
        ("timm", "which timm model"),
        ("timm:", "which timm model"),
        ("", "does not name a model"),
    ],
)
def test_targets_that_mean_nothing(target: str, told: str) -> None:
    with pytest.raises(SourceError, match=told):
        load_source(target)


def test_targets_are_taken_apart_at_the_last_colon(write) -> None:
    target = parse_target(write(NET, "odd:name/model.py") + ":Net")
    assert (target.kind, target.name, Path(target.place).name) == ("file", "Net", "model.py")


# --- weights --------------------------------------------------------------------------------------


def small() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def changed() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {
        key: torch.rand(entry.shape, generator=generator) if entry.is_floating_point() else entry
        for key, entry in small().state_dict().items()
    }


def without_counter(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: entry for key, entry in state.items() if not key.endswith("num_batches_tracked")}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state},
        lambda state: {"model": {"state_dict": state}},
        lambda state: {"module." + key: entry for key, entry in state.items()},
        lambda state: {"state_dict": {"module._orig_mod." + key: entry for key, entry in state.items()}},
        without_counter,
    ],
    ids=["plain", "state_dict", "model", "nested", "prefix", "both", "old-batchnorm"],
)
def test_state_dicts_are_found_in_their_wrappings(wrap, tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    state = changed()
    torch.save(wrap(state), path)
    model = small()
    load_weights(model, path)
    for key, entry in without_counter(state).items():
        assert torch.equal(model.state_dict()[key], entry)


def test_safetensors_and_tied_weights(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file({"0.weight": torch.full((4, 4), 2.0), "0.bias": torch.zeros(4)}, path)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight, model[1].bias = model[0].weight, model[0].bias
    load_weights(model, path)
    assert torch.equal(model[1].weight, torch.full((4, 4), 2.0))


def test_a_module_really_called_module_keeps_its_prefix(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    model = nn.ModuleDict({"module": nn.Linear(2, 2)})
    torch.save({key: torch.ones_like(entry) for key, entry in model.state_dict().items()}, path)
    load_weights(model, path)
    assert torch.equal(model["module"].weight, torch.ones(2, 2))


def test_all_misfits_are_counted_and_listed_and_nothing_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    state = changed()
    del state["1.weight"]
    state["0.weight"] = torch.zeros(4, 3, 5, 5)
    state |= {f"extra.{index}": torch.zeros(1) for index in range(40)}
    torch.save(state, path)
    model = small()
    before = {key: entry.clone() for key, entry in model.state_dict().items()}
    with pytest.raises(SourceError, match="do not fit") as caught:
        load_weights(model, path)
    told = str(caught.value)
    assert "1 missing from the file" in told and "1.weight" in told
    assert "40 not in the model" in told and "extra.0" in told and "36 more" in told
    assert "0.weight: 4x3x5x5 in the file, 4x3x3x3 in the model" in told
    assert len(told.splitlines()) <= 20
    assert all(torch.equal(entry, before[key]) for key, entry in model.state_dict().items())


class Planted:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def test_a_pickle_is_refused_and_never_run(tmp_path: Path) -> None:
    path, mark = tmp_path / "w.pt", tmp_path / "mark"
    torch.save({"state_dict": changed(), "evil": Planted(mark)}, path)
    with pytest.raises(SourceError, match="pickled") as caught:
        load_weights(small(), path)
    assert not mark.exists()
    assert "state_dict()" in str(caught.value)
    torch.load(path, weights_only=False)
    assert mark.exists()  # the trap works, so the check above can fail


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("w.pt", b"not a checkpoint", "not a readable state dict|pickled"),
        ("w.pt", b"", "not a readable state dict|pickled"),
        ("w.safetensors", b"not safetensors", "not a readable safetensors"),
    ],
)
def test_unreadable_weights(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SourceError, match=told):
        load_weights(small(), path)


@pytest.mark.parametrize(
    ("value", "told"),
    [(torch.ones(3), "a Tensor"), ([1, 2], "a list"), ({}, "empty"), ({"epoch": 3}, "not tensors: epoch")],
)
def test_checkpoints_that_are_not_state_dicts(tmp_path: Path, value: object, told: str) -> None:
    path = tmp_path / "w.pt"
    torch.save(value, path)
    with pytest.raises(SourceError) as caught:
        load_weights(small(), path)
    assert told in str(caught.value)


def test_weights_reach_the_model_through_load_source(write, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    state = {"conv.weight": torch.full((4, 3, 3, 3), 0.5), "conv.bias": torch.ones(4)}
    safetensors.torch.save_file(state, path)
    source = load_source(write(NET), weights=path)
    assert torch.equal(source.model.conv.weight, state["conv.weight"])
