"""Values for options by their metavar: usual ones, and such as nobody should type."""

from __future__ import annotations

import random

from tests.fuzz.cli.options import Parameter

_MODELS = ["net.py", "net.py:model", "net.py:Net", "samples/vgg.py", "deep/er/net.py"]
_DATA = ["images", "data.npy", "data.npz", "data.pt", "data.safetensors", "loader.py:batches"]
_RULES = ["default", "paper", "everywhere", "rules.toml"]
_NUMBERS = ["1", "2", "3", "0"]
_SHARES = ["0.5", "0.25", "1", "0", "0.75"]
_OUTS = ["out", "new/out", "artefact", "outs/old.html", "outs/new.onnx", "out.html", "out.onnx", "p.png"]

USUAL: dict[str, list[str]] = {
    "MODEL": _MODELS,
    "DIR|MODEL": ["artefact", *_MODELS],
    "A [B ...]": ["net.py", "net.onnx", "artefact"],
    "DATA": _DATA,
    "DEVICE": ["cpu"],
    "FILE.SUFFIX": ["out.onnx", "out.pt2", "out.xml", "outs/old.onnx"],
    "GLOB": ["conv1", "conv*", "*"],
    "NAME": ["default", "paper", "everywhere"],
    "RULES": _RULES,
    "RULES[,RULES...]": [*_RULES, "default,paper"],
    "SHAPE": ["1x3x32x32", "2x3x16x16"],
    "SHARE": _SHARES,
    "SHARE[,SHARE...]": ["0.5", "0.25,0.5"],
    "RATIO": ["0.6", "0.9"],
    "X": ["0.5", "1e-3", "2"],
    "PIXELS": ["32", "40"],
    "M[,M,M]": ["0.5", "0.4,0.5,0.6"],
    "S[,S,S]": ["0.5", "0.2,0.2,0.2"],
    "N": _NUMBERS,
}
_NAMED: dict[str, list[str]] = {
    "out": ["out", "new/out", "artefact"],
    "folder": ["artefact"],
    "html": ["out.html", "outs/old.html"],
    "onnx": ["out.onnx", "outs/old.onnx"],
    "plot": ["p.png", "p.svg"],
    "plan": ["artefact/plan.json", "plan.json"],
    "weights": ["weights.safetensors", "weights.pt"],
    "file": ["rules.toml", "out.onnx"],
}

_NUMERIC = [
    *(
        "-1",
        "nan",
        "inf",
        "-inf",
        "1e400",
        "1e-400",
        "-0",
        "",
        " ",
        "x",
        "0x10",
        "1_000",
        "\u0661",
        "½",
        "1,5",
        "--",
    ),
    *("9" * 30, "9223372036854775808", "2147483648", "1e3", "0.5.5", "0.5,", ",", "0.1,nan", "1e9"),
]
_TEXT = [
    *(
        "",
        " ",
        ".",
        "..",
        "/",
        "~",
        "-",
        "--",
        "\x1b[31mred\x1b[0m",
        "a\nb",
        "[bold]x[/bold]",
        "[/]",
        "é",
        "\udcff",
    ),
    *(
        "nul\x01byte",
        "a" * 300,
        "x/" * 2100,
        "{}",
        "%s%n",
        "$HOME",
        "*",
        "**",
        "[",
        "]",
        "?",
        "a:b:c",
        ":",
        "::",
    ),
    *("net.py:", "net.py:nothing", ":model", "timm:", "timm:nothing", "torchvision:nothing", "nowhere.mod:x"),
    *(
        "no.such.file",
        "images",
        "net.py",
        "loop",
        "dangling",
        "artefact",
        "empty",
        "empty.py",
        "raises.py",
        "exits.py",
    ),
    *(
        "syntax.py",
        "prints.py",
        "number.py",
        "weights.pt",
        "weights.safetensors",
        "rules.toml",
        "net.onnx",
        "pipe",
    ),
    *(
        "synthetic",
        "1x3x32x32:int64",
        "1x3x32x32:nothing",
        "1x3x-1x32",
        "0x3x32x32",
        "1x3x99999999999999999999x1",
        "x",
        "1xx3",
    ),
    *("1x3x32x32:float16", "3", "1x3x32x32x32", "\u0661x3x32x32", "cuda", "cuda:99", "meta", "mps", "cpu:7"),
]


def value_of(parameter: Parameter, chance: random.Random, hostile: float) -> str:
    """A value for ``parameter``, hostile with this probability."""
    if chance.random() < hostile:
        pool = _NUMERIC if chance.random() < 0.4 else _TEXT
        return chance.choice([*pool, *_OUTS] if chance.random() < 0.1 else pool)
    usual = parameter.choices or _NAMED.get(parameter.name) or USUAL.get(parameter.metavar)
    return chance.choice(list(usual or [*_OUTS, *_NUMBERS, *_MODELS, *_DATA]))
