"""A folder with everything a command line can name: models, weights, data, a converted folder."""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

_NET = """\
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 32, 3, padding=1)
        self.conv3 = nn.Conv2d(32, 16, 3, padding=1)
        self.fc = nn.Linear(16, 4)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.conv2(x))
        return self.fc(torch.relu(self.conv3(x)).mean((2, 3)))

torch.manual_seed(0)
model = Net()
example_inputs = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
"""
_FILES = {
    "net.py": _NET,
    "deep/er/net.py": _NET,
    "samples/vgg.py": _NET,
    "loader.py": "import torch\ndef batches():\n    for _ in range(2): yield torch.randn(4, 3, 32, 32)\n",
    "empty.py": "",
    "raises.py": "raise RuntimeError('not today')\n",
    "exits.py": "import sys\nsys.exit(3)\n",
    "syntax.py": "def f(:\n",
    "prints.py": "print('hello')\n" + _NET,
    "number.py": "model = 3\n",
    "rules.toml": 'name = "mine"\n\n[[rule]]\nreason = "all"\nalpha = 0.5\n',
    "outs/old.html": "<p>old</p>\n",
    "outs/old.onnx": "old",
}
_HOSTILE: tuple[bytes, ...] = (
    b"",
    b"\x00" * 64,
    b"\xff\xfe" * 40,
    b"{" * 100_000,
    b"[" * 100_000,
    b"a = " + b"[" * 50_000,
    b'{"a": 1e999, "plan": null}',
    b"null",
    b"\xff\xff\xff\xff\xff\xff\xff\x7f{}",
    b"\x93NUMPY\x01\x00\xff\xff{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
    b"\x89PNG\r\n\x1a\n" + b"\x00" * 30,
    b"GIF89a\xff\xff\xff\xff",
    b"PK\x03\x04" + b"\x00" * 30,
    b"\x80\x04cos\nsystem\n(S'true'\ntR.",
)


@lru_cache(maxsize=1)
def template() -> Path:
    """The folder that worlds are copied from, made once a process."""
    import atexit

    root = Path(tempfile.mkdtemp(prefix="octify-fuzz-"))
    owner = os.getpid()  # forked children leave it to their parent
    atexit.register(lambda: os.getpid() == owner and shutil.rmtree(root, ignore_errors=True))
    for name, text in _FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "empty").mkdir()
    _tensors(root)
    _converted(root)
    return root


def new_world(folder: Path, chance: random.Random, *, damaged: bool = True) -> list[str]:
    """Copy the template to ``folder`` and, if ``damaged``, damage some of its files; what was done."""
    shutil.copytree(template(), folder, symlinks=True)
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("nowhere")
    if not damaged or chance.random() < 0.4:
        return []
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix not in (".py", ".html"))
    done = []
    for _ in range(chance.randint(1, 3)):
        path = chance.choice(files)
        name, damage = chance.choice(sorted(_DAMAGES.items()))
        path.write_bytes(damage(path.read_bytes(), chance))
        done.append(f"{path.relative_to(folder)} {name}")
    return done


def _truncated(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def _flipped(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.randint(1, 8) if changed else 0):
        changed[chance.randrange(min(len(changed), 4096))] = chance.randrange(256)
    return bytes(changed)


def _edited(data: bytes, chance: random.Random) -> bytes:
    """JSON with one value replaced."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):  # no JSON, or nested too deep by an earlier damage
        return _flipped(data, chance)
    place, key = document, None
    while isinstance(place, (dict, list)) and place:
        holder = place
        key = chance.choice(list(place)) if isinstance(place, dict) else chance.randrange(len(place))
        place = place[key]
        if chance.random() < 0.3:
            break
    if key is not None:
        holder[key] = chance.choice([None, -1, "x", [], {}, 1e308, True, "\x1b[31m", 2**70])
    return json.dumps(document).encode()


_DAMAGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "truncated": _truncated,
    "with bytes changed": _flipped,
    "with a value replaced": _edited,
    "hostile": lambda data, chance: chance.choice(_HOSTILE),
}


def _tensors(root: Path) -> None:
    import numpy as np
    import torch
    from PIL import Image
    from safetensors.torch import save_file

    from tests.fuzz.program import run_text

    generator = torch.Generator().manual_seed(0)
    data = torch.randn(6, 3, 32, 32, generator=generator)
    np.save(root / "data.npy", data.numpy())
    np.savez(root / "data.npz", x=data.numpy())
    torch.save(data, root / "data.pt")
    save_file({"x": data}, root / "data.safetensors")
    state = run_text(_NET).model.state_dict()
    torch.save(state, root / "weights.pt")
    save_file(dict(state), root / "weights.safetensors")
    random_pixels = np.random.default_rng(0)
    for folder in ("images/a", "images/b"):
        (root / folder).mkdir(parents=True)
        for i, suffix in enumerate(("png", "jpg", "bmp", "gif")):
            pixels = random_pixels.integers(0, 256, (40, 36, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / folder / f"{i}.{suffix}")


def _converted(root: Path) -> None:
    import octify
    from octify.artefact.origin import write_origin
    from tests.fuzz.program import run_text

    net = run_text(_NET)
    result = octify.convert(net.model, net.example_inputs, rules="everywhere")
    result.save(root / "artefact")
    result.plan.save(root / "plan.json")
    before = Path.cwd()
    os.chdir(root)
    try:
        write_origin(root / "artefact", root / "artefact", "net.py", None, None)
    finally:
        os.chdir(before)
    octify.export_onnx(net.model.eval(), net.example_inputs, root / "net.onnx")
