"""Arguments of a MODEL are literals: read back as they were written, and nothing else is ever run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from octify.artefact.origin import read_origin, write_origin
from octify.errors import SourceError
from octify.source import load_source, parse_target
from octify.source.arguments import split_arguments

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=4, *, kernel=3, names=()):
        super().__init__()
        self.conv = nn.Conv2d(3, width, kernel, padding=kernel // 2)
    def forward(self, x):
        return self.conv(x)

def make(width, bias=True):
    return Net(width)

ready = Net(2)

class Other:
    def __init__(self, width):
        open("mark", "w").close()
"""

LITERALS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
NAMES = st.from_regex(r"\A[a-z_][a-z0-9_]{0,8}\Z").filter(lambda name: name.isidentifier())


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    return "net.py"


@given(st.lists(LITERALS, max_size=3), st.dictionaries(NAMES, LITERALS, max_size=3))
def test_literals_are_read_back_as_written(positional: list[Any], keywords: dict[str, Any]) -> None:
    from keyword import iskeyword

    keywords = {key: value for key, value in keywords.items() if not iskeyword(key)}
    if any("inf" in repr(value) for value in (*positional, *keywords.values())):
        return  # no literal of Python's
    written = ", ".join([*map(repr, positional), *(f"{key}={value!r}" for key, value in keywords.items())])
    name, arguments = split_arguments(f"pkg.mod:Net({written})")
    assert name == "pkg.mod:Net"
    assert list(arguments.positional) == positional and dict(arguments.keywords) == keywords
    assert arguments.text == f"({written})"


EVIL = [
    "__import__('os').system('touch mark')",
    "width=__import__('os').system('touch mark')",
    "open('mark', 'w')",
    "width=open('mark', 'w')",
    "[open('mark', 'w')]",
    "{'a': open('mark', 'w')}",
    "*open('mark', 'w')",
    "**dict(width=open('mark', 'w'))",
    "(lambda: open('mark', 'w'))()",
    "[open(m, 'w') for m in ['mark']]",
    'f\'{open("mark", "w")}\'',
    "(x := open('mark', 'w'))",
    "width=torch.load('w.pt')",
    "1 if open('mark', 'w') else 2",
    "2 ** 10",
    "'a' * 1000",
    "width=width",
]


@pytest.mark.parametrize("text", EVIL)
@pytest.mark.parametrize(
    "prefix", ["net.py:Net", "torch.nn:Conv2d", "smp:Unet", "hf:resnet", "timm:resnet18"]
)
def test_what_is_no_literal_is_refused_and_not_run(net: str, prefix: str, text: str) -> None:
    with pytest.raises(SourceError, match=r"not a literal|cannot be read|not possible"):
        load_source(f"{prefix}({text})")
    assert not Path("mark").exists()


@pytest.mark.parametrize(
    "target",
    [
        "os:system('touch mark')",
        "subprocess:run(['touch', 'mark'])",
        "subprocess:Popen(['touch', 'mark'])",
        "pathlib:Path.touch('mark')",
        "builtins:exec(\"open('mark', 'w')\")",
        "torch:load('w.pt', weights_only=False)",
        "torch.hub:load('owner/name', 'net')",
        "runpy:run_path('evil.py')",
        "net.py:Other(3)",
        "net.py:torch.load('w.pt')",
    ],
)
def test_only_what_makes_models_is_called(net: str, target: str) -> None:
    Path("evil.py").write_text("open('mark', 'w')\n")
    with pytest.raises(SourceError, match=r"not called with arguments|not an nn\.Module"):
        load_source(target)
    assert not Path("mark").exists()


@pytest.mark.parametrize(
    ("text", "width"),
    [
        ("Net(7)", 7),
        ("Net(width=6)", 6),
        ("Net(5, kernel=1, names=['a', 'b'])", 5),
        ("make(width=3)", 3),
        ("Net()", 4),
    ],
)
def test_a_factory_is_called_with_them(net: str, text: str, width: int) -> None:
    source = load_source(f"{net}:{text}", inputs=["1x3x8x8"])
    assert source.model.conv.out_channels == width
    with torch.no_grad():
        assert source.model(*source.example_inputs).shape == (1, width, 8, 8)


def test_a_class_of_a_package_is_called_with_them() -> None:
    assert load_source("torch.nn:Conv2d(3, 8, kernel_size=5)").model.kernel_size == (5, 5)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Net(depth=3)", "unexpected keyword argument 'depth'"),
        ("Net(1, 2, 3)", "too many positional"),
        ("make()", "missing a required argument: 'width'"),
        ("ready(3)", "a model already"),
        ("Net(width=resnet34)", 'width="resnet34", if it is a string'),
        ("Net(width=3", "does not name a model|there is no"),
    ],
)
def test_mistakes(net: str, text: str, told: str) -> None:
    with pytest.raises(SourceError, match=told):
        load_source(f"{net}:{text}")


def test_a_class_that_needs_arguments_says_how_to_give_them(net: str) -> None:
    with pytest.raises(SourceError) as caught:
        load_source(f"{net}:make")
    assert "net.py:make(width=...)" in str(caught.value.hint)


def test_parentheses_of_a_folder_are_no_arguments(tmp_path: Path) -> None:
    folder = tmp_path / "nets (copy)"
    folder.mkdir()
    (folder / "net.py").write_text(NET)
    assert load_source(f"{folder}/net.py:Net(9)").model.conv.out_channels == 9
    assert load_source(f"{folder}/net.py:Net").model.conv.out_channels == 4


def test_a_converted_folder_remembers_them(net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    out.mkdir()
    write_origin(out, out, "net.py:Net(5, kernel=1)", None, ["1x3x8x8"])
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")
    origin = read_origin(Path("../out"))
    assert origin is not None and origin.target == "../net.py:Net(5, kernel=1)"
    assert load_source(origin.target).model.conv.out_channels == 5


def test_names_for_files() -> None:
    names = {
        "smp:Unet(encoder_name='resnet18')": "Unet",
        "hf:org/resnet-50": "resnet-50",
        "ultralytics:yolov8n.yaml(nc=3)": "yolov8n",
        "diffusers:AutoencoderKL:decoder(latent_channels=4)": "AutoencoderKL-decoder",
        "timm:resnet18(num_classes=3)": "resnet18",
        "a.b:Net(3)": "b-Net",
    }
    for target, name in names.items():
        assert parse_target(target).short_name == name
