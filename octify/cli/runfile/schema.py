"""Models of the run file, and the JSON schema that editors complete it by.

``python -m octify.cli.runfile.schema`` prints the schema; the package ships it as ``octify.schema.json``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import Field

from octify.cli.commands.bench import bench
from octify.cli.commands.convert import convert
from octify.cli.commands.export import export
from octify.cli.commands.report import report
from octify.cli.runfile.options import Option, OptionTable, options_of, table

SCHEMA = Path(__file__).with_name("octify.schema.json")
COMMANDS: dict[str, Callable[..., Any]] = {
    "convert": convert,
    "export": export,
    "bench": bench,
    "report": report,
}
TOP = ("model", "weights", "input")
DATA = ("calib", "mean", "std", "resize", "crop", "bgr")  # of convert, and of each export in int8
# What a step is given by the others.
_LEFT_OUT = {"convert": TOP, "export": (), "bench": (), "report": ("folder",)}
_DOCS = {
    "convert": "Options of octify convert.",
    "export": "Options of octify export: one [[export]] for each file.",
    "bench": "Options of octify bench; its answer becomes bench.json in the converted folder.",
    "report": "Options of octify report.",
}


@cache
def step_options(step: str) -> dict[str, Option]:
    """Options that the table of ``step`` may hold, by key."""
    return {key: option for key, option in options_of(COMMANDS[step]).items() if key not in _LEFT_OUT[step]}


@cache
def data_options() -> dict[str, Option]:
    """Options that the table ``[data]`` may hold, by key."""
    options = options_of(convert)
    return {key: options[key] for key in DATA}


@cache
def top_options() -> dict[str, Option]:
    """Options that stand above all tables, by key."""
    options = options_of(convert)
    return {key: options[key] for key in TOP}


@cache
def run_file() -> type[OptionTable]:
    """The model of a whole run file."""
    options = top_options()
    step: dict[str, Any] = {}
    for name in COMMANDS:
        kind: Any = table(name.capitalize(), _DOCS[name], step_options(name).values())
        step[name] = (
            (list[kind], Field(default_factory=list, description=_DOCS[name]))
            if name == "export"
            else (kind, Field(None, description=_DOCS[name], json_schema_extra=_undefaulted))
        )
    data: Any = table(
        "Data", "Calibration data, for [convert] and for exports in int8.", data_options().values()
    )
    step["data"] = (data, Field(None, description=data.__doc__, json_schema_extra=_undefaulted))
    model = (str, Field(description=options["model"].help))
    rest = [options[key] for key in TOP if key != "model"]
    return table(
        "RunFile", "A run of octify: convert, export, bench and report one model.", rest, model=model, **step
    )


def _undefaulted(schema: dict[str, Any]) -> None:
    schema.pop("default", None)


def json_schema() -> str:
    """The JSON schema of the run file, as text."""
    schema = {"$schema": "http://json-schema.org/draft-07/schema#"} | run_file().model_json_schema()
    return json.dumps(schema, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    print(json_schema(), end="")
