"""Arithmetic with sizes that must stay open: faults W6 and D."""

IDIOMS: dict[str, str] = {
    "size/energy": "$y = $x - $x.sum($axes, keepdim=True) / $x[0, 0].numel()",
    "size/mean by hand": "$y = $x - $x.sum(-1, keepdim=True) / $x.shape[-1]",
    "size/half": "$y = F.interpolate($x, size=[int(n * .5) for n in $x.shape[2:]])",
    "size/floor": "$y = F.interpolate($x, size=[n // 2 for n in $x.shape[2:]])",
    "size/doubled": "$y = F.interpolate($x, size=[n * 2 for n in $x.shape[2:]])",
    "size/like the input": "$y = F.interpolate($x, size=x.shape[2:])",
    "size/max": "$y = $x / max($x.shape[-1], $x.shape[-2])",
    "size/range": """\
$y = $x
for _ in range($x.shape[-1] // 4): $y = $y * .9
""",
    "size/pad to multiple": "$y = F.pad($x, (0, -$x.shape[-1] % 4))",
    "size/crop": "$y = F.pad($x, (1, 1))[..., :$x.shape[-1]]",
    "size/centre": "$y = $x - $x[..., $x.shape[-1] // 2:$x.shape[-1] // 2 + 1]",
    "size/positions": "$y = $x + torch.arange($x.shape[-1], device=$x.device, dtype=$x.dtype) / 10",
    "size/linspace": "$y = $x + torch.linspace(0, 1, $x.shape[-1], dtype=$x.dtype)",
    "size/zeros": "$y = $x + torch.zeros_like($x[:, :1])",
    "size/ones": "$y = $x * torch.ones($x.shape[0], 1, $ones, dtype=$x.dtype)",
    "size/new_zeros": "$y = torch.cat([$x, $x.new_zeros($x.shape[0], 2, *$x.shape[2:])], 1)",
    "size/len of batch": "$y = $x.reshape(len($x), -1)",
    "size/ratio": "$y = $x * (x.shape[-1] / $x.shape[-1])",
    "size/square root": "$y = $x * $x.shape[1] ** -.5",
    "size/attention": """\
init: self.$m = nn.Conv$d($c, $c, 1)
q = self.$m($x).flatten(2)
$y = (q @ torch.softmax(q.transpose(1, 2) @ q * .1, -1)).view($x.shape)
""",
    "size/batched view": "$y = $x.reshape(-1, $c, *$x.shape[2:])",
}
