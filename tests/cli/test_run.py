"""The run file: what may stand in it, what a run does, and what it does not do twice."""

from __future__ import annotations

import json
import re
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from octify.cli.runfile.content import key_of, output_digests
from octify.cli.runfile.read import line_of, read_run_file
from octify.cli.runfile.schema import COMMANDS, DATA, SCHEMA, json_schema, run_file, step_options
from octify.cli.runfile.steps import plan_run
from octify.cli.runfile.template import template
from octify.errors import OctifyError
from tests.places import ROOT

pytestmark = pytest.mark.usefixtures("exports")


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(text: str, name: str = "octify.toml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


RUN = """
model = "net.py"
[convert]
out = "out"
alpha = 0.25
[[export]]
file = "out/model.onnx"
[report]
html = "out/report.html"
"""


# --- what may stand in it -------------------------------------------------------------------------


def test_the_shipped_schema_is_up_to_date() -> None:
    again = "python -m octify.cli.runfile.schema > octify/cli/runfile/octify.schema.json"
    assert SCHEMA.read_text(encoding="utf-8") == json_schema(), again


def test_every_option_of_a_step_has_a_key() -> None:
    """Options that a command gets later join without a change here."""
    for step, command in COMMANDS.items():
        import inspect

        session = {"json", "quiet", "verbose", "debug", "force", "dry_run", "context"}
        names = {name for name in inspect.signature(command).parameters if name not in session}
        top = {"convert": {"model", "weights", "input"}, "report": {"folder"}}.get(step, set())
        assert {option.name for option in step_options(step).values()} == names - top


def test_the_schema_has_help_for_every_key() -> None:
    schema = json.loads(json_schema())
    for table in (schema, *schema["$defs"].values()):
        assert table["additionalProperties"] is False
        for name, entry in table["properties"].items():
            assert entry.get("description") or "$ref" in entry, name


def test_every_line_of_a_new_file_is_valid_once_its_sign_is_gone(write: Any) -> None:
    text = template("net.py", "out", schema=True)
    lines = text.splitlines()
    options = [n for n, line in enumerate(lines) if re.match(r"#[a-z][\w-]* = ", line)]
    assert len(options) > 30
    for number in options:
        one = [line[1:] if n == number else line for n, line in enumerate(lines)]
        read_run_file(write("\n".join(one)))
    everything = [line[1:] if n in options else line for n, line in enumerate(lines)]
    values = read_run_file(write("\n".join(everything)))
    assert set(values["data"]) == set(DATA)


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ('modle = "net.py"', 1, "model, perhaps"),
        ("", 1, 'model = "..."'),
        ("model = 3", 1, 'model = "model.py"'),
        ('model = "net.py"\n\n[convert]\n# alpha\nalpah = 0.5', 5, "alpha, perhaps"),
        ('model = "net.py"\n[convert]\ncalib_effort = "fast"', 3, "calib-effort, perhaps"),
        ('model = "net.py"\n[convert]\nalpha = "0.5"', 3, "alpha = 0.5"),
        ('model = "net.py"\n[convert]\nlatency = "yes"', 3, "latency = false"),
        ('model = "net.py"\n[convert]\ncalib-effort = "fats"', 3, 'calib-effort = "fast"'),
        ('model = "net.py"\n[convert]\nseed = 0.5', 3, "seed = 0"),
        ('model = "net.py"\n[convert]\nresize = 0', 3, "greater than or equal to 1"),
        ('model = "net.py"\n[convert]\nforce = true', 3, "there is no key convert.force"),
        ('model = "net.py"\n[convrt]\nalpha = 1', 2, "convert, perhaps"),
        ('model = "net.py"\n[export]\nfile = "a.onnx"', 2, "[[export]]"),
        ('model = "net.py"\nbench = 3', 2, "[bench]"),
        ('model = "net.py"\n[data]\nmean = ["a"]', 3, "one number, or one for each channel"),
        ('model = "net.py"\ninput = "1x3x8x8"', 2, 'input = ["1x3x224x224"]'),
        (
            'model = "net.py"\n[[export]]\nfile = "a.onnx"\n[[export]]\nfile = "b.onnx"\ntarget = "onnxrt"',
            6,
            'target = "onnxruntime"',
        ),
        ('model = "net.py"\n[bench]\nbatch = [1, 0]', 3, "greater than or equal to 1"),
        ('model = "net.py"\n[convert\nalpha = 1', 2, "not valid TOML"),
    ],
)
def test_mistakes_are_told_with_line_key_and_what_to_type(
    refused: Any, write: Any, text: str, line: int, told: str
) -> None:
    write(text)
    err = refused("run")
    assert f"octify.toml:{line}\n" in err
    assert told in err


def test_lines_of_keys() -> None:
    source = 'model = "m"\n[a]\nx = 1\n[[b]]\nx = 2\n[[b]]\ny = 3\nx = 4\n[c.d]\nx = 5\n'
    places = {
        ("model",): 1,
        ("a",): 2,
        ("a", "x"): 3,
        ("b", 0, "x"): 5,
        ("b", 1, "x"): 8,
        ("c", "d", "x"): 10,
    }
    for keys, line in places.items():
        assert line_of(source, keys) == line


def test_a_missing_file_names_init(refused: Any, tmp_path: Path) -> None:
    assert "octify init MODEL" in refused("run")
    assert "octify init MODEL" in refused("run", "nosuch.toml")
    (tmp_path / "octify.toml").mkdir()
    assert "cannot be read" in refused("run")


def test_the_file_runs_no_code(octify: Any, write: Any, tmp_path: Path) -> None:
    for model in ("net.py:Net(__import__('os').system('touch mark'))", "os:system('touch mark')"):
        write(f"model = {json.dumps(model)}\n")
        (tmp_path / "net.py").write_text("class Net: pass\n")
        assert octify("run").code == 2
        assert not (tmp_path / "mark").exists()


# --- steps ----------------------------------------------------------------------------------------


def test_steps_are_command_lines(octify: Any, net: Path, write: Any) -> None:
    write(
        'model = "net.py"\ninput = ["1x3x16x16"]\n'
        '[data]\ncalib = "images"\nmean = [0.5, -0.25, 1]\nbgr = true\n'
        '[convert]\nout = "-odd"\nexclude = ["a*", "b c"]\ncalib-effort = "fast"\nalpha = 0.25\n'
        '[[export]]\nfile = "f.onnx"\nbatch = 1\n'
        '[[export]]\nfile = "q.onnx"\nint8 = true\nreduce-range = false\n'
        '[bench]\nruntime = ["eager"]\nprofile = true\n[report]\n'
    )
    outcome = octify("run", "--list")
    assert outcome.code == 0, outcome.err
    convert, export, int8, bench, report = (shlex.split(line) for line in outcome.out.splitlines())
    assert convert[:2] == ["octify", "convert"] and convert[-2:] == ["--", "net.py"]
    for word in ("--input=1x3x16x16", "--calib=images", "--mean=0.5,-0.25,1", "--bgr", "--exclude=b c"):
        assert word in convert
    assert "--out=-odd" in convert and "--alpha=0.25" in convert
    assert export == ["octify", "export", "--batch=1", "--", "-odd", "f.onnx"]
    assert {"--int8", "--full-range", "--calib=images", "--bgr"} <= set(int8)
    assert bench[-2:] == [">", "-odd/bench.json"] and "--profile" in bench
    assert report == ["octify", "report", "--", "-odd"]
    assert not Path("-odd").exists()


def test_two_steps_do_not_write_one_file(refused: Any, net: Path, write: Any) -> None:
    write('model = "net.py"\n[[export]]\nfile = "a.onnx"\n[report]\nhtml = "a.onnx"\n')
    assert "write the same file" in refused("run")


def test_an_export_without_a_file(refused: Any, net: Path, write: Any) -> None:
    write('model = "net.py"\n[[export]]\ntarget = "ncnn"\n')
    assert "file = " in refused("run")


# --- runs -----------------------------------------------------------------------------------------


def skipped(outcome: Any) -> list[str]:
    return re.findall(r"^\d/\d skipped ([^:]+):", outcome.out, flags=re.MULTILINE)


STEPS = ["convert", "export out/model.onnx", "report"]


def test_a_run_does_its_steps_once(octify: Any, net: Path, write: Any, listing: Any) -> None:
    write(RUN)
    first = octify("run")
    assert first.code == 0, first.err
    assert skipped(first) == []
    wanted_files = {
        "plan.json",
        "weights.safetensors",
        "report.json",
        "source.json",
        "model.onnx",
        "report.html",
    }
    assert {f"out/{name}" for name in (*wanted_files, "run.json")} <= listing()
    before = {path: path.stat().st_mtime_ns for path in Path("out").iterdir()}
    second = octify("run")
    assert (second.code, skipped(second)) == (0, STEPS)
    assert before == {path: path.stat().st_mtime_ns for path in Path("out").iterdir()}
    assert skipped(octify("run", "--again")) == []
    documents = octify("run", "--json").json["steps"]
    assert [each["skipped"] for each in documents] == [True] * 3


@pytest.mark.parametrize(
    ("change", "left"),
    [
        (lambda: Path("net.py").write_text(Path("net.py").read_text() + "\n# changed\n"), []),
        (lambda: Path("helper.py").write_text("x = 2\n"), []),
        (lambda: Path("octify.toml").write_text(RUN.replace("0.25", "0.5")), []),
        (lambda: Path("out/weights.safetensors").write_bytes(b"cut"), []),
        (lambda: Path("out/source.json").unlink(), []),
        (lambda: Path("out/model.onnx").write_bytes(b"cut"), ["convert", "report"]),
        (lambda: Path("out/report.html").unlink(), ["convert", "export out/model.onnx"]),
        (lambda: Path("out/run.json").write_text("{"), []),
        (lambda: Path("out/run.json").write_text('{"version": 1, "steps": {"convert": 3}}'), []),
        (lambda: Path("octify.toml").write_text("# only a comment\n" + RUN), STEPS),
    ],
    ids=["code", "code-beside", "option", "cut", "gone", "onnx", "html", "record", "record-odd", "comment"],
)
def test_what_has_changed_is_done_again(
    octify: Any, net: Path, write: Any, change: Callable[[], Any], left: list[str]
) -> None:
    write(RUN)
    Path("helper.py").write_text("x = 1\n")
    assert octify("run").code == 0
    change()
    again = octify("run")
    assert again.code == 0, again.err
    # A step whose inputs come out as they were is not done again, though the step before it was.
    assert set(left) <= set(skipped(again))
    assert ("convert" in skipped(again)) == ("convert" in left)
    assert skipped(octify("run")) == STEPS


def test_a_folder_without_its_plan_is_not_overwritten_unasked(octify: Any, net: Path, write: Any) -> None:
    write(RUN)
    assert octify("run").code == 0
    Path("out/plan.json").unlink()
    failed = octify("run")
    assert failed.code == 2 and "--force" in failed.err
    assert octify("run", "--force").code == 0
    assert skipped(octify("run")) == STEPS


def test_a_changed_conversion_is_exported_again(octify: Any, net: Path, write: Any, exports: Any) -> None:
    write(RUN)
    assert octify("run").code == 0
    write(RUN.replace("0.25", "0.5"))
    done = octify("run")
    assert skipped(done) == []
    assert len(exports) == 2


def test_weights_and_data_are_inputs(octify: Any, net: Path, tmp_path: Path, write: Any) -> None:
    import numpy as np

    write('model = "net.py"\n[data]\ncalib = "x.npy"\n[convert]\ncalib-effort = "norm"\nout = "out"\n')
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(8, 3, 32, 32)).astype("float32"))
    run = plan_run(read_run_file(tmp_path / "octify.toml"))
    key = key_of(run.steps[0])
    assert key == key_of(run.steps[0])
    np.save(tmp_path / "x.npy", np.random.default_rng(1).normal(size=(8, 3, 32, 32)).astype("float32"))
    assert key_of(run.steps[0]) != key


@pytest.mark.parametrize("place", ["pkg/__init__.py", "pkg/nets.py", "pkg/deep/more.py", "beside.py"])
@pytest.mark.parametrize("is_package", [True, False])
def test_code_of_a_module_here_is_an_input(
    octify: Any, net: Path, write: Any, tmp_path: Path, place: str, is_package: bool
) -> None:
    names = ["pkg/nets.py", "pkg/deep/more.py", "beside.py", *(["pkg/__init__.py"] if is_package else [])]
    for name in {*names, place}:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    run = plan_run({"model": "pkg.nets:Net"})
    before = key_of(run.steps[0])
    (tmp_path / place).write_text("x = 1\n")
    assert key_of(run.steps[0]) != before


@pytest.mark.parametrize("model", ["os:Net", "sys:Net", "torch.nn:Identity", "nosuch.mod:Net", "json:Net"])
def test_modules_elsewhere_have_a_key(octify: Any, model: str) -> None:
    run = plan_run({"model": model})
    assert key_of(run.steps[0]) == key_of(run.steps[0])


def test_paths_are_relative_to_the_file(octify: Any, net: Path, write: Any, tmp_path: Path) -> None:
    write(RUN, "sub/octify.toml")
    net.rename(tmp_path / "sub" / "net.py")
    here = Path.cwd()
    assert octify("run", "sub/octify.toml").code == 0
    assert (tmp_path / "sub/out/model.onnx").is_file() and not (tmp_path / "out").exists()
    assert Path.cwd() == here
    assert skipped(octify("run", tmp_path / "sub/octify.toml")) == STEPS


def test_a_step_that_fails_ends_the_run(octify: Any, net: Path, write: Any, wrong_onnx: None) -> None:
    write(RUN.replace("0.25", '0.25\ntarget-macs = 0.6\ncalib = "synthetic"'))
    failed = octify("run")
    assert failed.code == 2 and "cannot be combined" in failed.err
    assert not Path("out").exists()
    write(RUN.replace("alpha = 0.25", 'alpha = 0.25\nplan = "none.json"'))
    assert octify("run", "--json").json["error"]["exit_code"] == 2


def test_ctrl_c_leaves_nothing_half_written(signalled: Any, net: Path, write: Any, tmp_path: Path) -> None:
    net.write_text(net.read_text() + "\nimport time\nopen('begun', 'w').close()\ntime.sleep(30)\n")
    write(RUN)
    code, _, err = signalled(signal.SIGINT, "run", once="begun")
    assert code == 130 and "interrupted" in err
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__") == [
        "begun",
        "net.py",
        "octify.toml",
    ]


def test_bench_is_kept_beside_the_report(octify: Any, net: Path, write: Any) -> None:
    write('model = "net.py"\n[convert]\nout = "out"\n[bench]\nruntime = ["eager"]\nrounds = 2\n[report]\n')
    outcome = octify("run")
    assert outcome.code == 0, outcome.err
    assert json.loads(Path("out/bench.json").read_text())["rows"]
    assert "eager" in outcome.out
    assert skipped(octify("run")) == ["convert", "bench"]  # a report without a page is shown again


# --- octify init ----------------------------------------------------------------------------------


def test_init_writes_a_file_that_runs(octify: Any, net: Path) -> None:
    first = octify("init", "net.py")
    assert first.code == 0, first.err
    text = Path("octify.toml").read_text()
    assert 'model = "net.py"' in text
    Path("octify.toml").write_text(text.replace("[bench]", '[bench]\nruntime = ["eager"]\nrounds = 2'))
    assert octify("run").code == 0
    assert Path("net-octave/model.onnx").is_file() and Path("net-octave/report.html").is_file()


def test_init_overwrites_nothing(octify: Any, refused: Any, net: Path) -> None:
    Path("octify.toml").write_text("mine")
    assert "would overwrite octify.toml" in refused("init", "net.py")
    assert Path("octify.toml").read_text() == "mine"
    assert octify("init", "net.py", "--force").code == 0
    Path("octify.schema.json").write_text("mine")
    assert "would overwrite octify.schema.json" in refused("init", "net.py", "-o", "b.toml", "--schema")
    assert not Path("b.toml").exists()


def test_init_refuses_what_is_no_model(refused: Any, net: Path) -> None:
    assert "no such file" in refused("init", "none.py")
    assert "octify.toml" not in {path.name for path in Path().iterdir()}
    assert ".toml" in refused("init", "net.py", "-o", "run.yaml")


@pytest.mark.parametrize("name", ["net.py", "net.py:Net", "a b/net.py:Net()", 'q"\\x/net.py'])
def test_inits_model_is_found_from_the_folder_of_the_file(octify: Any, net: Path, name: str) -> None:
    path = Path(name.rpartition(":")[0] or name)
    path.parent.mkdir(exist_ok=True)
    path.write_text(net.read_text())
    assert octify("init", name, "-o", "sub/deep/octify.toml", "--schema").code == 0
    values = read_run_file(Path("sub/deep/octify.toml"))
    assert values["model"] == f"../../{name}"
    assert Path("sub/deep/octify.schema.json").read_text() == SCHEMA.read_text()
    assert octify("run", "sub/deep/octify.toml", "--list").code == 0


def test_the_page_of_run_files_is_valid(write: Any) -> None:
    text = (ROOT / "docs" / "run.md").read_text(encoding="utf-8")
    examples = re.findall(r"^```text\n(model = .*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    assert examples
    for example in examples:
        read_run_file(write(example))


def test_models_are_frozen() -> None:
    values = run_file().model_validate({"model": "m.py"})
    with pytest.raises((OctifyError, ValueError, TypeError)):
        values.model = "n.py"  # type: ignore[attr-defined]


def test_a_file_and_what_belongs_to_it_are_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").touch()
    exports = [{"file": "a.xml"}, {"file": "b.mlpackage"}]
    _, ir, package = plan_run({"model": "net.py", "export": exports}).steps
    assert ir.writes == (Path("a.xml"), Path("a.bin"))
    Path("a.xml").touch()
    assert output_digests(ir) is None  # its weights are missing
    Path("a.bin").touch()
    assert set(output_digests(ir) or ()) == {"a.xml", "a.bin"}
    Path("b.mlpackage/Data").mkdir(parents=True)
    Path("b.mlpackage/Data/weights").write_bytes(b"1")
    before = output_digests(package)
    assert before is not None
    Path("b.mlpackage/Data/weights").write_bytes(b"2")
    assert output_digests(package) != before
