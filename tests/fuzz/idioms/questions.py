"""Python asks a value what it is: fault W2. Each idiom is a template of a step (``tests.fuzz.draw``)."""

_CONV = "init: self.$m = nn.Conv$d($c, $c, 3, padding=1)\n"

IDIOMS: dict[str, str] = {
    "question/isinstance": "$y = $x * 2 if isinstance($x, torch.Tensor) else $x",
    "question/not a list": "$y = $x * 2 if not isinstance($x, (list, tuple)) else $x[0]",
    "question/is_tensor": "$y = $x + ($o if torch.is_tensor($o) else 0)",
    "question/sum from nothing": _CONV
    + """\
$y = None
for part in (self.$m($x), $x): $y = part if $y is None else $y + part
""",
    "question/sum from 0": _CONV + "$y = sum([self.$m($x), $x])",
    "question/type is": "$y = $x * 2 if type($x) is torch.Tensor else $x",
    "question/dtype": "$y = $x * 2 if $x.dtype == torch.float64 else $x",
    "question/is_floating_point": "$y = $x * 2 if torch.is_floating_point($x) else $x",
    "question/is_complex": "$y = $x.real if $x.is_complex() else $x * 2",
    "question/device": "$y = $x * [[2 if $x.device.type == 'cpu' else 3|3 if $x.is_cuda else 2]]",
    "question/requires_grad": "$y = $x * (1 if $x.requires_grad else 2) if not self.training else $x * 2",
    "question/hasattr": "$y = $x.tensors if hasattr($x, 'tensors') else $x * 2",
    "question/attribute": "$y = $x * getattr($x, 'factor', 2)",
    "question/try": """\
try: scale = float($x.mean()) * 0 + 2
except (TypeError, ValueError): scale = 1
$y = $x * scale
""",
    "question/tracing": "$y = $x * 0 if torch.jit.is_tracing() or torch.jit.is_scripting() else $x * 2",
    "question/is": "$y = $x * (2 if $x is $o else 3)",
    "question/in a list": "$y = $x * (2 if any($x is t for t in [$p, $x]) else 3)",
    "question/callable": "$y = $x * (3 if callable($x) else 2)",
    "question/channels": "$y = $x * 2 if $x.shape[1] == $c else $x[:, :1]",
    "question/dimensions": "$y = $x.unsqueeze(0) if $x.dim() < 3 else $x * 2",
    "question/assert channels": "assert $x.size(1) == $c and $x.ndim == $k + 2\n$y = $x * 2",
    "question/assert sizes": "assert $x.shape[-1] > 0, 'no columns'\n$y = $x * 2",
    "question/same sizes": "$y = $x + $o if $x.shape == $o.shape else $x",
    "question/len": "$y = $x * len($x.shape)",
    "question/value": "$y = $x * 2 if float($x.abs().mean()) < 1e9 else $x",
}
