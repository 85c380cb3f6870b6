"""What a network returns: a map, logits, several values, a dict, a class of its own; fault M5."""

_LOGITS = "init: self.head = nn.Linear($c, 5)\nout = self.head($x.mean($axes))\n"
_CLASS = """\
top: from collections import OrderedDict
top: class Output(OrderedDict):
top:     def __getattr__(self, name):
top:         if name in self: return self[name]
top:         raise AttributeError(name)
"""

IDIOMS: dict[str, str] = {
    "ending/map": "return $x",
    "ending/logits": _LOGITS + "return out",
    "ending/convolution": "init: self.head = nn.Conv$d($c, 5, 1)\nreturn self.head($x)",
    "ending/flatten": "return $x.flatten(1)",
    "ending/tuple": _LOGITS + "return out, $x",
    "ending/list": _LOGITS + "return [out, $p]",
    "ending/dict": _LOGITS + "return {'out': out, 'map': $x}",
    "ending/nested": _LOGITS + "return {'out': (out, [$x]), 'size': $x.mean($axes)}",
    "ending/ordered dict": "top: from collections import OrderedDict\n"
    + _LOGITS
    + "return OrderedDict(out=out)",
    "ending/dict class": _CLASS + _LOGITS + "return Output(logits=out)",
    "ending/named tuple": (
        "top: from typing import NamedTuple\n"
        "top: class Answer(NamedTuple):\n"
        "top:     out: torch.Tensor\n"
        "top:     map: torch.Tensor\n" + _LOGITS + "return Answer(out, $x)"
    ),
    "ending/dataclass": (
        "top: from dataclasses import dataclass\n"
        "top: @dataclass\n"
        "top: class Result:\n"
        "top:     out: torch.Tensor\n" + _LOGITS + "return Result(out)"
    ),
    "ending/the input too": "return $x, x",
    "ending/twice the same": "return $x, $x",
    "ending/none": _LOGITS + "return out, None",
    "ending/number": _LOGITS + "return out, 3",
    "ending/auxiliary": (
        "init: self.aux = nn.Linear($c, 2)\n"
        + _LOGITS
        + "if self.training: return out, self.aux($x.mean($axes))\nreturn out"
    ),
    "ending/masked": _LOGITS + "return F.pad(out, (0, 1), value=float('-inf'))",
    "ending/argmax": "return $x.argmax(1), $x",
}
