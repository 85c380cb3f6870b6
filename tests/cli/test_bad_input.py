"""What a user can get wrong: exit code 2, one screen that says what, where, why and what to type."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

Refused = Callable[..., str]
HEAD = "import torch\nfrom torch import nn\n"


@pytest.mark.parametrize("command", ["convert", "inspect", "verify"])
@pytest.mark.parametrize("target", ["nosuch.py", "folder/nosuch.py", "nosuch.py:net"])
def test_no_such_file(refused: Refused, command: str, target: str) -> None:
    assert f"no such file: {target.partition(':')[0]}" in refused(command, target)


def test_no_such_file_to_export(refused: Refused) -> None:
    assert "no such file: nosuch.py" in refused("export", "nosuch.py", "out.onnx")


def test_a_syntax_error_in_the_model_file(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(HEAD + "\ndef build_model(:\n    return 3\n")
    told = refused("convert", "bad.py")
    assert "SyntaxError" in told
    assert f"{tmp_path / 'bad.py'}:4" in told


def test_an_exception_in_the_model_file(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(HEAD + "widths = {}\nmodel = nn.Linear(widths['a'], 3)\n")
    told = refused("convert", "bad.py")
    assert "KeyError: 'a'" in told
    assert f"{tmp_path / 'bad.py'}:4" in told


def test_an_endless_exception_stays_on_one_screen(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("raise ValueError('\\n'.join(f'line {n}' for n in range(500)))\n")
    told = refused("convert", "bad.py")
    assert "line 0" in told
    assert "more lines (--debug shows all)" in told


def test_no_model_in_the_file(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "none.py").write_text("x = 1\n")
    assert "there is no model in none.py" in refused("convert", "none.py")


def test_several_candidates(refused: Refused, tmp_path: Path) -> None:
    text = "class A(nn.Module): pass\nclass B(nn.Module): pass\n"
    (tmp_path / "two.py").write_text(HEAD + text)
    told = refused("convert", "two.py")
    assert "two.py:A" in told
    assert "two.py:B" in told
    assert "try:" in told


def test_a_factory_that_needs_arguments(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "needy.py").write_text("def build_model(width, depth=3): ...\n")
    for target in ("needy.py", "needy.py:build_model"):
        told = refused("convert", target)
        assert "needs width" in told
        assert "build_model(width=...)" in told


def test_weights_that_do_not_fit(refused: Refused, net: Path, tmp_path: Path) -> None:
    state = {"stem.weight": torch.zeros(8, 3, 3, 3), "a_head.weight": torch.zeros(1)}
    torch.save(state | {f"blocks.{n}.bias": torch.zeros(1) for n in range(200)}, tmp_path / "w.pt")
    told = refused("convert", net, "--weights", "w.pt")
    assert "missing from the file" in told and "stem.bias" in told
    assert "201 not in the model" in told and "a_head.weight" in told
    assert "stem.weight: 8x3x3x3 in the file, 32x3x3x3 in the model" in told


class Harmful:
    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("unpickled",))


def test_a_pickle_as_weights(refused: Refused, net: Path, tmp_path: Path) -> None:
    torch.save(Harmful(), tmp_path / "w.pt")
    told = refused("convert", net, "--weights", "w.pt")
    assert "refuses" in told
    assert "unpickled" not in told
    assert "torch.save(model.state_dict()" in told


def test_missing_weights_are_looked_for_beside_the_model(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "m.py").write_text("x = 1\n")
    (tmp_path / "sub" / "w.pt").touch()
    assert "--weights sub/w.pt" in refused("convert", "sub/m.py", "--weights", "w.pt").replace("\\", "/")


@pytest.mark.parametrize("command", ["convert", "inspect", "verify"])
def test_an_input_shape_the_model_rejects(refused: Refused, net: Path, command: str) -> None:
    told = refused(command, net, "--input", "1x5x32x32")
    assert "1x5x32x32" in told
    assert "where: stem (Conv2d)" in told
    assert "5 channels" in told


def test_an_input_shape_the_model_to_export_rejects(refused: Refused, net: Path) -> None:
    told = refused("export", net, "out.onnx", "--input", "1x5x32x32")
    line = 1 + net.read_text().splitlines().index("        x = torch.relu(self.stem(x))")
    assert f"where: {net}:{line}" in told
    assert "5 channels" in told


def test_a_number_of_inputs_the_model_rejects(refused: Refused, net: Path) -> None:
    told = refused("convert", net, "--input", "1x3x32x32", "--input", "1x3x32x32")
    assert f"{net}:" in told


@pytest.mark.parametrize("text", ["1x3xfoo", "", "3 224 224", "1x0x4x4"])
def test_an_input_that_is_not_a_shape(refused: Refused, net: Path, text: str) -> None:
    told = refused("convert", net, "--input", text)
    assert "is not a shape" in told
    assert "--input 1x3x224x224" in told


@pytest.mark.parametrize("alpha", ["-0.1", "1.5", "nan", "inf"])
@pytest.mark.parametrize("command", ["convert", "inspect", "verify"])
def test_an_alpha_outside_0_and_1(refused: Refused, net: Path, command: str, alpha: str) -> None:
    net.write_text("raise ValueError('the mistake must be found before the model is loaded')")
    told = refused(command, net, f"--alpha={alpha}")
    assert "alpha" in told
    assert alpha in told


RULES_WITH_A_TYPO = """\
name = "mine"
description = "with a typo"

[[rule]]
alhpa = 0.5
"""


@pytest.mark.parametrize(
    "arguments", [("rules", "check", "mine.toml"), ("convert", "net.py", "--rules", "mine.toml")]
)
def test_a_rule_file_with_a_typo(
    refused: Refused, net: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    (tmp_path / "mine.toml").write_text(RULES_WITH_A_TYPO)
    told = refused(*arguments)
    assert "mine.toml:5" in told
    assert "alhpa" in told


def test_a_rule_set_that_is_not_there(refused: Refused, net: Path) -> None:
    assert "none.toml" in refused("convert", net, "--rules", "none.toml")
    assert "defualt" in refused("convert", net, "--rules", "defualt")
    assert "defualt" in refused("rules", "show", "defualt")


@pytest.mark.parametrize("command", ["convert", "inspect", "verify"])
def test_an_exclude_that_matches_nothing(refused: Refused, net: Path, command: str) -> None:
    told = refused(command, net, "--exclude", "conv1", "--exclude", "layer9.*", "--exclude", "head.?")
    assert "layer9.*" in told
    assert "head.?" in told


@pytest.mark.parametrize(
    "options",
    [
        ("-o", "file/out"),
        ("-o", "file"),
        ("--onnx", "file/x.onnx"),
        ("--onnx", "folder"),
        ("-o", "/dev/null/x"),
    ],
)
def test_an_output_that_cannot_be_written(
    refused: Refused, net: Path, tmp_path: Path, options: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    # It must be found out before the long work: the model is not even loaded.
    monkeypatch.setattr("octify.cli.commands.convert.load", lambda *_: pytest.fail("the model was loaded"))
    assert f"cannot write {options[1]}" in refused("convert", net, *options)
    assert (tmp_path / "file").read_text() == "mine"


def test_an_export_that_cannot_be_written(refused: Refused, net: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert "cannot write file/x.onnx" in refused("export", net, "file/x.onnx")


def test_a_folder_with_other_things_in_it(refused: Refused, net: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("cat")
    told = refused("convert", net, "-o", "photos")
    assert "cat.jpg" in told
    assert "--force" in told


def test_a_plan_that_is_not_there_or_not_a_plan(refused: Refused, net: Path, tmp_path: Path) -> None:
    assert "no such plan: none.json" in refused("convert", net, "--plan", "none.json")
    for content in ("{", "[]", "{}", '{"version": 1, "extra": 2}'):
        (tmp_path / "plan.json").write_text(content)
        assert "plan.json" in refused("convert", net, "--plan", "plan.json")


def test_a_plan_beside_options_it_would_override(refused: Refused, net: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{}")
    told = refused("convert", net, "--plan", "plan.json", "--alpha", "0.5", "--exclude", "conv1")
    assert "--alpha, --exclude cannot be combined with --plan" in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("convert",), "MODEL"),
        (("convert", "net.py", "--alhpa", "0.5"), "--alhpa"),
        (("convert", "net.py", "--alpha", "half"), "--alpha"),
        (("convert", "net.py", "--kernels", "cheap"), "cheap"),
        (("convert", "net.py", "extra"), "extra"),
        (("convert", "net.py", "-q", "-v"), "exclude each other"),
        (("konvert", "net.py"), "konvert"),
        (("rules", "delete"), "delete"),
        (("export", "net.py"), "FILE.SUFFIX"),
    ],
)
def test_wrong_usage(refused: Refused, net: Path, arguments: tuple[str, ...], told: str) -> None:
    message = refused(*arguments)
    assert told in message
    assert "--help" in message


def test_artefacts_that_cannot_be_exported(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "not a folder that octify wrote" in refused("export", "empty", "x.onnx")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "plan.json").write_text("{}")
    assert "--model MODEL" in refused("export", "old", "x.onnx")
    (tmp_path / "old" / "source.json").write_text('{"target": 3}')
    assert "--model MODEL" in refused("export", "old", "x.onnx")
    (tmp_path / "old" / "source.json").write_text(
        '{"target": "gone.py", "file": "../gone.py", "name": null, "weights": null, "inputs": []}'
    )
    told = refused("export", "old", "x.onnx")
    assert "no such file: gone.py" in told
    assert "--model MODEL" in told
    assert "--weights is for a model" in refused("export", "old", "x.onnx", "--weights", "w.pt")
