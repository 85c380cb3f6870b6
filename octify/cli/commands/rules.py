"""``octify rules``: list, show and check the rule sets that decide what is converted. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from octify.cli.options.shared import DebugOption, JsonOption, QuietOption
from octify.cli.session import session

rules = typer.Typer(help="List, show and check rule sets.", no_args_is_help=False)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", show_default=False, help="A built-in rule set.")]
FileArgument = Annotated[
    Path, typer.Argument(metavar="FILE", show_default=False, help="A rule file (.toml).")
]


@rules.command("list")
def list_rules(json: JsonOption = False, quiet: QuietOption = False, debug: DebugOption = False) -> None:
    """List the built-in rule sets.

    \b
    Example:
      octify rules list
    """
    with session(json=json, quiet=False, verbose=False, debug=debug) as run:
        from octify.planning import ruleset

        sets = [ruleset.load_rules(name) for name in ruleset.builtin_names()]
        run.answer({"rules": [{"name": each.name, "description": each.description} for each in sets]})
        width = max((len(each.name) for each in sets), default=0)
        for each in sets:
            run.show(each.name if quiet else f"{each.name:<{width}}  {each.description}")


@rules.command("show")
def show_rules(name: NameArgument, json: JsonOption = False, debug: DebugOption = False) -> None:
    """Print a rule set: copy it, change it, and give it to --rules.

    \b
    Example:
      octify rules show default > mine.toml
      octify convert model.py --rules mine.toml
    """
    with session(json=json, quiet=False, verbose=False, debug=debug) as run:
        from octify.planning import ruleset

        text = ruleset.rules_path(name).read_text(encoding="utf-8")
        rule_set = ruleset.load_rules(name)
        run.answer({"name": rule_set.name, "description": rule_set.description, "text": text})
        run.show(text.rstrip("\n"))


@rules.command("check")
def check_rules(file: FileArgument, json: JsonOption = False, debug: DebugOption = False) -> None:
    """Check a rule file; an error names its file, line and key.

    \b
    Example:
      octify rules check mine.toml
    """
    with session(json=json, quiet=False, verbose=False, debug=debug) as run:
        from octify.planning import ruleset

        rule_set = ruleset.load_rules(file)
        run.answer(
            {"file": str(file), "name": rule_set.name, "description": rule_set.description, "valid": True}
        )
        run.show(f"{file}: {rule_set.name!r} is a valid rule set")
