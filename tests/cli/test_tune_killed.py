"""``octify tune`` killed before every change of a file: its folder is whole, and the run can go on."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.test_tune import folder

__all__ = ["folder"]

# The audit events of Python come before what they tell of.
KILLED = """\
import os, shutil, signal, sys
from pathlib import Path
import octify.api, octify.tune.loop, octify.artefact.tuned, octify.report.tuning, octify.tune.finished
from octify.cli.main import main
from safetensors.torch import load_file

out = sys.argv[1]
final = Path(out)
command = ["tune", "out", "--data", "x.npz", "--steps", "2", "--checkpoint-every", "1", "--batch", "8",
           "--eval", "0", "-q", "-o", out]
KINDS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "ctypes.dlsym")

def run(n, *more):
    child = os.fork()
    if not child:
        count = [0]
        def hook(event, arguments):
            here = event == "ctypes.dlsym" and arguments[1] == "renameat2"
            places = [str(a) for a in arguments if isinstance(a, (str, Path))]
            here |= any(place.startswith((os.getcwd(), out, ".")) for place in places)
            if event in KINDS and here and "__pycache__" not in str(arguments):
                count[0] += 1
                if count[0] == n:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        os._exit(main([*command, *more]))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def digest(place):
    return {k: v.tolist() for k, v in load_file(place / "weights.safetensors").items()}

def reset():
    for entry in Path().iterdir():
        if entry.name.startswith((".", "out")):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    shutil.copytree("begun", "out")

reset()
assert run(0) == 0
wanted, old = digest(final), digest(Path("begun"))
n, code = int(sys.argv[2]), 1
while code:
    reset()
    code = run(n)
    present = digest(final) if final.is_dir() else old
    resumed = run(0, "--resume")
    print(n, code, present in (wanted, old), resumed, digest(final) == wanted, flush=True)
    n += int(sys.argv[3])
"""


@pytest.mark.zoo
@pytest.mark.parametrize("out", ["out", "out-tuned"])
def test_a_run_killed_anywhere_is_resumed_to_the_same_result(
    folder: Path, start: Callable[..., subprocess.Popen[str]], out: str
) -> None:
    here = folder.parent
    (here / "killed.py").write_text(KILLED)
    folder.rename(here / "begun")
    process = start("killed.py", out, "1", "1", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    told, err = process.communicate(timeout=900)
    assert process.returncode == 0, err
    lines = [line.split() for line in told.splitlines()]
    assert len(lines) > 10, lines
    assert all(line[2:] == ["True", "0", "True"] for line in lines), lines
