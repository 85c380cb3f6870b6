"""A failure as a program of its own: the module's text, and lines that show what is wrong."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from tests.fuzz.checks import Case, Failure

_CONVERT = 'result = octify.convert(model, x, {alpha}, rules="everywhere"{more})\n'
_OTHER = (
    "for shape in (x.shape, (3, *x.shape[1:]), (*x.shape[:2], *(n + 4 for n in x.shape[2:]))):\n"
    "    x = torch.randn(shape).double()\n"
    "    with torch.no_grad():\n"
    "        want, got = {want}(x), result.model(x)\n"
    "    print(want, got, sep='\\n')\n"
)
_ENDS = {
    "alpha 0": _CONVERT.format(alpha=0.0, more="") + _OTHER.format(want="model"),
    "left alone": (
        "before = {name: value.clone() for name, value in model.train().state_dict().items()}\n"
        + _CONVERT
        + "print([n for n, value in model.state_dict().items() if not torch.equal(value, before[n])])\n"
        "print({n: m.training for n, m in model.named_modules()})\n"
    ),
    "exact": _CONVERT.replace("{more}", ', kernels="exact"')
    + "reference = octify.reference(model, result.plan, x)\n"
    + _OTHER.format(want="reference"),
    "paper": _CONVERT.replace("{more}", "") + "print(model(x), result.model(x), sep='\\n')\n",
    "saved": _CONVERT.replace("{more}", "")
    + "import tempfile\nfolder = tempfile.mkdtemp()\nresult.save(folder)\n"
    "print(result.model(x), octify.load(folder, Net().double().eval())(x), sep='\\n')\n",
    "training": "model.train()\n"
    + _CONVERT.format(alpha=0.0, more="")
    + "for net in (model, result.model):\n"
    "    torch.manual_seed(0)\n"
    "    print(net(x))\n"
    "    print({n: b.sum() for n, b in net.named_buffers()})\n",
    "trainable": "model.train()\n"
    + _CONVERT.replace("{more}", ', kernels="exact"')
    + "print(model(x))\nprint(result.model(x))\n",
    "onnx": "model, x = model.float(), x.float()\n"
    + _CONVERT.replace("{more}", "")
    + 'import tempfile\nprint(octify.export_onnx(result.model, x, tempfile.mkdtemp() + "/net.onnx"))\n',
}


@dataclass(frozen=True)
class Found:
    """A failure of a drawn case, shrunk, with the number it was drawn with."""

    number: int
    case: Case
    failure: Failure
    idioms: tuple[str, ...]

    @property
    def name(self) -> str:
        """A file name for it."""
        kind = "-".join(self.idioms[-3:-1]) or "net"
        text = "".join(c if c.isalnum() else "_" for c in f"{self.failure.check}-{kind}")[:60]
        return f"{text}-{hashlib.sha1(self.program().encode()).hexdigest()[:6]}.py"

    def program(self) -> str:
        """A self-contained program that shows the failure."""
        end = _ENDS[self.failure.check].replace("{alpha}", str(self.case.alpha)).replace("{more}", "")
        head = f'"""{self.failure.check}: {self.failure.what}\n\nIdioms: {", ".join(self.idioms)}.\n"""\n'
        return f"{head}import octify\n{self.case.program.source()}\n{end}"
