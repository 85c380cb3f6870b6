"""What differs in training, is a context, or a side effect: faults W5, W7 and M6."""

_NORM = "init: self.$m = nn.BatchNorm$d($c)\n"

IDIOMS: dict[str, str] = {
    "training/dropout": "$y = F.[[dropout|alpha_dropout]]($x, .5, training=self.training)",
    "training/dropout by keyword": "$y = F.dropout($x, p=.3, training=self.training) + $x",
    "training/batch_norm": _NORM
    + "$y = F.batch_norm($x, self.$m.running_mean, self.$m.running_var, self.$m.weight, self.$m.bias,"
    " self.training, .1)",
    "training/flag": "$y = $x * 2 if self.training else $x * 3",
    "training/noise": "$y = $x + torch.randn_like($x) if self.training else $x * 2",
    "training/no_grad": "init: self.$m = nn.Conv$d($c, $c, 1)\nwith torch.no_grad(): $y = self.$m($x)",
    "training/detach": "$y = $x.detach() * 2",
    "training/detached scale": "$y = $x * $x.abs().mean(1, keepdim=True).detach()",
    "training/autocast": "with torch.autocast('cpu', enabled=False): $y = $x * 2",
    "training/grad enabled": "$y = $x * 2 if torch.is_grad_enabled() else $x * 2.0",
    "training/buffer read": "init: self.register_buffer('$m', torch.ones(1, $c, $ones))\n$y = $x * self.$m",
    "training/buffer written": """\
init: self.register_buffer('$m', torch.zeros(1, $c, $ones))
if self.training: self.$m.mul_(.9).add_($x.detach().mean((0, *$axes), keepdim=True), alpha=.1)
$y = $x - self.$m
""",
    "training/counter": "init: self.$m = 0\nself.$m += 1\n$y = $x * 2",
    "training/counter buffer": """\
init: self.register_buffer('$m', torch.zeros(()))
self.$m += 1
$y = $x * 2
""",
    "training/features kept": "init: self.$m = None\nself.$m = $x\n$y = $x * 2",
    "training/drop path": "init: self.$m = nn.Dropout(.2)\n$y = $x + self.$m($x)",
    "training/dropout module": "init: self.$m = nn.Dropout[[|$d]](.3)\n$y = self.$m($x)",
    "training/norm": _NORM + "$y = self.$m($x)",
    "training/frozen norm": _NORM + "after: model.$m.eval()\n$y = self.$m($x)",
    "training/frozen parameters": _NORM + "after: model.$m.requires_grad_(False)\n$y = self.$m($x)",
    "training/statistics only": "init: self.$m = nn.BatchNorm$d($c, affine=False)\n$y = self.$m($x)",
    "training/no statistics": "init: self.$m = nn.BatchNorm$d($c, track_running_stats=False)\n$y = self.$m($x)",
    "training/checkpoint": """\
top: from torch.utils.checkpoint import checkpoint
init: self.$m = nn.Conv$d($c, $c, 1)
$y = checkpoint(self.$m, $x, use_reentrant=False)
""",
}
