"""In-place operations, views and results written into an argument: fault W8."""

_IN_PLACE = "[[$y.relu_()|$y.mul_(.5)|$y.add_(1)|torch.relu_($y)|F.relu($y, inplace=True)|$y.clamp_(min=0)]]"


def _alias(expression: str, init: str = "") -> str:
    """An in-place operation on what ``expression`` makes of a map that is used afterwards."""
    return f"{init}$y = {expression}\n{_IN_PLACE}\n$y = $y + $x"


IDIOMS: dict[str, str] = {
    "alias/identity": _alias("self.$m($x)", "init: self.$m = nn.[[Identity|Sequential]]()\n"),
    "alias/dropout": _alias("self.$m($x)", "init: self.$m = nn.[[Dropout|Dropout$d|AlphaDropout]]()\n"),
    "alias/functional dropout": _alias("F.dropout($x, .5, [[False|self.training]])"),
    "alias/contiguous": _alias("$x.contiguous()"),
    "alias/to": _alias("$x.[[to($x.dtype)|to($x)|type_as($x)|double()|to($x.device)]]"),
    "alias/view": _alias("$x.[[view($x.shape)|reshape($x.shape)|view_as($x)|expand_as($x)]]"),
    "alias/getitem": _alias("$x[ [[:|...|:, :]] ]"),
    "alias/squeeze": _alias("$x.unsqueeze(0).squeeze(0)"),
    "alias/detach": _alias("$x.[[detach()|data]]"),
    "alias/flatten": _alias("$x.flatten(1, 1)"),
    "alias/permute": _alias("$x.[[movedim(1, 1)|transpose(1, 1)|swapaxes(-1, -1)]]"),
    "alias/narrow": _alias("$x[[.narrow(1, 0, $c)|.chunk(1, 1)[0]|.split($c, 1)[0] ]]"),
    "alias/positive": _alias("[[torch.positive($x)|torch.broadcast_tensors($x, $x)[0]|+$x|torch.real($x)]]"),
    "alias/interpolate": _alias("F.interpolate($x, size=$x.shape[2:])"),
    "alias/pad": _alias("F.pad($x, [0, 0])"),
    "alias/pool": _alias("F.adaptive_avg_pool$d($x, $size)"),
    "alias/same object": _alias("$x"),
    "in place/relu module": "init: self.$m = nn.ReLU(inplace=True)\n$y = self.$m($x) + $x",
    "in place/iadd": "$y = $x * 1\n$y [[+=|-=|*=]] $o",
    "in place/iadd of a value": "$x += 1\n$y = $x * 2",
    "in place/augmented skip": "init: self.$m = nn.Conv$d($c, $c, 1)\n$y = self.$m($x)\n$y += $x",
    "in place/copy_": "$y = torch.empty_like($x)\n$y.copy_($x)",
    "in place/zero_": "$y = $x.clone()\n$y[:, :1].zero_()",
    "in place/fill a slice": "$y = $x.clone()\n$y[:, :2] [[= 0|= .5|+= 1|*= 2]]",
    "in place/masked_fill_": "$y = $x.clone()\n$y.masked_fill_($x < 0, .1)",
    "in place/slice of a sum": "$y = $x * 1\n$y[:, ::2] += $x[:, ::2]",
    "in place/rows": "$y = $x.clone()\n$y[:, :, 0] = 0",
    "in place/view": "$y = $x.clone()\npart = $y[:, 1:]\npart.mul_(2)",
    "in place/chunk": "$y = $x.clone()\nleft, right = $y.chunk(2, 1)\nleft.add_(1)",
    "out/add": "$y = $x * 1\ntorch.add($y, 1, out=$y)",
    "out/mul": "$y = torch.empty_like($x)\ntorch.mul($x, 2, out=$y)",
    "out/cat": "$y = torch.empty(0, dtype=$x.dtype)\ntorch.cat([$x, $x], 1, out=$y)",
    "out/relu": "$y = torch.clamp($x, min=0, out=torch.empty_like($x))",
}
