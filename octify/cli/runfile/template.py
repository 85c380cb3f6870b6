"""Text of a new run file: every option with its help, those that decide most without the comment sign."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from enum import Enum
from typing import Annotated, Any, Literal, get_args, get_origin

from octify.cli.runfile.options import Option
from octify.cli.runfile.schema import COMMANDS, DATA, SCHEMA, data_options, step_options

_WIDTH = 100
_HEAD = """\
# A run of octify: `octify run` converts the model, then exports, times and reports it; it skips what
# is done. Paths are relative to this file. A line such as "#seed = 0" is an option's default, or an
# example where it has none: take the sign away to set it. `octify run --list` prints the command lines
# that this file means.
"""
# Examples for options without a default; others get one by their type.
_EXAMPLES: dict[str, Any] = {
    "batch": 1,
    "calib": "images",
    "channel-order": "greedy",
    "crop": 224,
    "device": "cuda",
    "exclude": ["layer4.*"],
    "input": ["1x3x224x224"],
    "max-drop": 0.5,
    "max-error": 0.1,
    "metric": "metric.py:accuracy",
    "min-agreement": 0.98,
    "model": "model.py",
    "plan": "plan.json",
    "resize": 256,
    "target-drop": 0.5,
    "target-latency": 5,
    "target-error": 0.1,
    "target-macs": 0.6,
    "weights": "model.safetensors",
}
# Values that a new file begins with.
_SET: dict[str, dict[str, Any]] = {
    "convert": {"alpha": 0.5, "rules": "default"},
    "export": {},
    "bench": {},
    "report": {},
}
# Options that have a better place: [data], [[export]], [report], or the top.
_ELSEWHERE = {
    "convert": (*DATA, "onnx", "target", "batch", "html"),
    "export": (*DATA, "model", "weights", "input"),
    "bench": ("weights", "input", "alpha", "rules"),
}
_TITLES = {
    "data": "Calibration data: inputs without labels. It keeps a trained network's accuracy; give it.",
    "convert": "octify convert: alpha, or a target in its place; what is calibrated, and how.",
    "export": "octify export: an [[export]] for each file. int8 = true takes the data above.",
    "bench": "octify bench: the original and the converted model in turn, kept in bench.json.",
    "report": "octify report: the page.",
}


def template(model: str, out: str, *, schema: bool) -> str:
    """Text of a run file for ``model`` that writes into the folder ``out``."""
    parts = [f"#:schema ./{SCHEMA.name}\n" if schema else "", _HEAD, f"\nmodel = {value_text(model)}\n"]
    parts += ['#weights = "model.safetensors"\n', '#input = ["1x3x224x224"]\n']
    parts.append(_table("data", "[data]", data_options(), {}))
    files = {"convert": {"out": out}, "export": {"file": f"{out}/model.onnx"}}
    files["report"] = {"html": f"{out}/report.html"}
    for step in COMMANDS:
        hidden = _ELSEWHERE.get(step, ())
        options = {key: option for key, option in step_options(step).items() if key not in hidden}
        header = "[[export]]" if step == "export" else f"[{step}]"
        parts.append(_table(step, header, options, {**files.get(step, {}), **_SET[step]}))
    return "".join(parts)


def _table(name: str, header: str, options: Mapping[str, Option], values: Mapping[str, Any]) -> str:
    lines = ["", "", f"# {_TITLES[name]}", header]
    for key in values:
        lines += [*_comment(options[key].help), f"{key} = {value_text(values[key])}"]
    for key, option in options.items():
        if key not in values:
            lines += ["", *_comment(option.help), f"#{key} = {value_text(example_of(option))}"]
    return "\n".join(lines) + "\n"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="# ")


def example_of(option: Option) -> Any:
    """The option's default, or an example of a value where it has none."""
    if option.default not in (None, ()):
        return option.default
    if option.key in _EXAMPLES:
        example = _EXAMPLES[option.key]
        return [example] if get_origin(option.kind) is list and not isinstance(example, list) else example
    return [0.5, 0.5, 0.5] if option.is_numbers else _example(option.kind)


def _example(kind: Any) -> Any:
    """A value of a type of TOML."""
    origin, members = get_origin(kind), get_args(kind)
    if origin is list:
        return [_example(members[0])]
    if origin in (Annotated, Literal):
        return _example(members[0]) if origin is Annotated else members[0]
    return {bool: False, int: 1, float: 0.5}.get(kind, "...")


def value_text(value: Any) -> str:
    """``value`` in TOML."""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(value_text, value))}]"
    if isinstance(value, (int, float)):
        return repr(value)
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
