"""The usual blocks of convolutional networks, and several of them in one value."""

_CONV = "init: self.$m = nn.Conv$d($c, $c, 3, padding=1)\n"

IDIOMS: dict[str, str] = {
    "block/convolution": "init: self.$m = nn.Conv$d($c, [[4|6|8|12]], 3, padding=1)\n$y = self.$m($x)",
    "block/strided": "init: self.$m = nn.Conv$d($c, [[4|8]], 3, 2, 1, bias=False)\n$y = self.$m($x)",
    "block/residual": _CONV + "$y = F.relu(self.$m($x) + $x)",
    "block/bottleneck": """\
init: self.$m = nn.Sequential(nn.Conv$d($c, 4, 1), nn.BatchNorm$d(4), nn.ReLU(True), nn.Conv$d(4, $c, 3, padding=1))
$y = F.relu(self.$m($x) + $x)
""",
    "block/sum": "$y = $x [[+|-|*]] $o",
    "block/twice": _CONV + "$y = self.$m(F.relu(self.$m($x)))",
    "block/side by side": _CONV + "$y = self.$m($x) + self.$m($o)",
    "block/shared norm": "init: self.$m = nn.BatchNorm$d($c)\n$y = self.$m($x) + self.$m($o * 2)",
    "block/shared activation": "init: self.$m = nn.PReLU()\n$y = self.$m(self.$m($x) - 1)",
    "block/squeeze excite": """\
init: self.$m = nn.Sequential(nn.AdaptiveAvgPool$d(1), nn.Conv$d($c, 2, 1), nn.ReLU(), nn.Conv$d(2, $c, 1), nn.Sigmoid())
$y = $x * self.$m($x)
""",
    "block/squeeze by linear": """\
init: self.$m = nn.Linear($c, $c)
$y = $x * torch.sigmoid(self.$m($x.mean($axes)))[[.view($x.size(0), $c, $ones)|.unflatten(1, ($c, $ones))]]
""",
    "block/spatial gate": "init: self.$m = nn.Conv$d($c, 1, 3, padding=1)\n$y = $x * torch.sigmoid(self.$m($x))",
    "block/gate of mean": "$y = $x * torch.sigmoid($x.mean(1, keepdim=True))",
    "block/concat": "init: self.$m = nn.Conv$d($c, 4, 1)\n$y = torch.cat([self.$m($x), $p], 1)",
    "block/shuffle": """\
n = $x.shape[0]
$y = $x.view(n, $g, $c // $g, *$x.shape[2:]).transpose(1, 2).reshape($x.shape)
""",
    "block/halves": "left, right = $x.chunk(2, 1)\n$y = torch.cat([right, F.relu(left)], 1)",
    "block/gated halves": "left, right = $x[:, :$c // 2], $x[:, $c // 2:$c // 2 * 2]\n$y = left * torch.sigmoid(right)",
    "block/layer scale": "init: self.$m = nn.Parameter(torch.rand($c, $ones))\n$y = $x * self.$m",
    "block/layer norm, moved": """\
init: self.$m = nn.LayerNorm($c)
$y = self.$m($x.movedim(1, -1)).movedim(-1, 1)
""",
    "block/convnext": """\
init: self.$m = nn.Sequential(nn.LayerNorm($c), nn.Linear($c, 2 * $c), nn.GELU(), nn.Linear(2 * $c, $c))
$y = $x + self.$m($x.movedim(1, -1)).movedim(-1, 1)
""",
    "block/functional": "init: self.$m = nn.Conv$d($c, 6, 3)\n$y = F.conv$d($x, self.$m.weight, self.$m.bias, padding=1)",
    "block/up": "$y = F.interpolate($x, scale_factor=2)",
    "block/up and skip": """\
init: self.$m = nn.Conv$d($c, $c, 3, 2, 1)
$y = F.interpolate(self.$m($x), size=$x.shape[2:], mode='nearest') + $x
""",
    "block/stack": "$y = torch.stack([$x, $o], 2).[[sum|mean]](2)",
    "block/stack extreme": "$y = torch.stack([$x, $o], [[1|2]]).[[amax|amin]]([[1|2]])",
    "block/list": "init: self.$m = nn.ModuleList([nn.Conv$d($c, $c, 1), nn.ReLU()])\n$y = $x\nfor m in self.$m: $y = m($y)",
    "block/dict": "init: self.$m = nn.ModuleDict({'one': nn.Conv$d($c, $c, 1)})\n$y = self.$m['one']($x)",
    "block/dict, keyword": "init: self.$m = nn.ModuleDict({'in': nn.Conv$d($c, $c, 1)})\n$y = self.$m['in']($x)",
    "block/tuple between": """\
top: class Pair(nn.Module):
top:     def forward(self, x): return x * 2, x + 1
init: self.$m = Pair()
left, right = self.$m($x)
$y = left + right
""",
    "block/opaque": """\
top: class Opaque(nn.Module):
top:     def forward(self, x): return x * 2 if float(x.abs().mean()) < 1e9 else x
init: self.$m = Opaque()
$y = self.$m($x)
""",
    "block/opaque with convolution": """\
top: class Asks(nn.Module):
top:     def __init__(self, c): super().__init__(); self.conv = nn.Conv2d(c, c, 3, padding=1)
top:     def forward(self, x): return self.conv(x) if float(x.abs().mean()) < 1e9 else x
init: self.$m = Asks($c)
$y = self.$m($x)
""",
    "block/zero channels": "$y = F.pad($x, [0, 0] * $k + [[ [0, 2]|[1, 1]|[0, $c] ]])",
    "block/dense in between": "$y = $x.cumsum(-1) * .1",
    "block/ssd head": "$y = $x.movedim(1, -1).contiguous().view($x.size(0), -1)",
}
