"""``octify init``: write a run file with comments."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from octify.cli.commands.run import NAME
from octify.cli.options.shared import DebugOption, JsonOption, ModelArgument, QuietOption, VerboseOption
from octify.cli.outputs import refuse_edited
from octify.cli.session import session
from octify.errors import OctifyError
from octify.files import check_file, write_text
from octify.source import parse_target

OutOption = Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The run file to write.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Overwrite a run file that exists.")]
SchemaOption = Annotated[
    bool,
    typer.Option(
        "--schema", help="Also write octify.schema.json beside it, by which editors complete and check it."
    ),
]


def init(
    model: ModelArgument,
    out: OutOption = Path(NAME),
    schema: SchemaOption = False,
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Write a run file for a model: every option with its meaning, ready for octify run.

    The model is not loaded.

    \b
    Examples:
      octify init model.py
      octify init timm:resnet26d -o configs/octify.toml
      octify init model.py --schema
    """
    with session(json=json, quiet=quiet, verbose=verbose, debug=debug) as run:
        from octify.cli.runfile.schema import SCHEMA
        from octify.cli.runfile.template import template

        spec = parse_target(model)
        if out.suffix != ".toml":
            raise OctifyError(f"{out} is no name for a run file", hint=f"-o {out.with_suffix('.toml')}")
        written = [out, *([out.parent / SCHEMA.name] if schema else [])]
        for path in written:
            check_file(path)
            refuse_edited(path, "octify init", force=force)
        place = spec.path
        target = model if place is None else spec.moved(_beside(place, out))
        write_text(out, template(target, f"{spec.short_name}-octave", schema=schema))
        if schema:
            write_text(written[1], SCHEMA.read_text(encoding="utf-8"))
        run.show(
            *(f"wrote {each}" for each in written), f"octify run{'' if out == Path(NAME) else f' {out}'}"
        )
        run.answer({"written": [str(each) for each in written]})


def _beside(path: Path, file: Path) -> str:
    """``path`` as seen from the folder of ``file``; an absolute path stays one."""
    if path.is_absolute():
        return path.as_posix()
    return Path(os.path.relpath(path, file.parent)).as_posix()
