"""Behaviour and settings changed after construction: faults W1, W3, W4, M6."""

_CONV = "init: self.$m = nn.Conv$d($c, $c, 3, padding=1)\n"
_LEAF = (
    "init: self.$m = [[nn.ReLU()|nn.BatchNorm$d($c)|nn.MaxPool$d(3, 1, 1)|nn.AvgPool$d(2)|nn.Upsample(scale_factor=2)"
    "|nn.GroupNorm(1, $c)|nn.InstanceNorm$d($c)|nn.PReLU()|nn.Identity()|nn.Dropout()|nn.Conv$d($c, $c, 1)"
    "|nn.Conv$d($c, $c, 3, padding=1, groups=$c)|nn.ChannelShuffle(1)|nn.AdaptiveAvgPool$d(4)|nn.GELU()"
    "|nn.Softmax(1)|nn.LocalResponseNorm(3)|nn.Threshold(.1, 0)|nn.ConvTranspose$d($c, $c, 2, 2)]]\n"
)
_RUN = "$y = self.$m($x)"
_OUTER = "after: model.register_forward_[[hook(lambda m, i, o: o)|pre_hook(lambda m, i: (i[0] / 2,))]]\n"

IDIOMS: dict[str, str] = {
    "later/stride": _CONV + "after: model.$m.stride = (2,) * $k\n" + _RUN,
    "later/dilation": _CONV + "after: model.$m.dilation = model.$m.padding = (2,) * $k\n" + _RUN,
    "later/padding": _CONV + "after: model.$m.padding = [[(0,) * $k|'same'|'valid'|(2,) * $k]]\n" + _RUN,
    "later/padding_mode": _CONV
    + "after: model.$m.padding_mode = [['circular'|'reflect'|'replicate']]\n"
    + _RUN,
    "later/stride undone": (
        "init: self.$m = nn.Conv$d($c, $c, 3, 2, 1)\nafter: model.$m.stride = (1,) * $k\n"
        "after: model.$m.dilation = model.$m.padding = (2,) * $k\n" + _RUN
    ),
    "later/bias": _CONV + "after: model.$m.bias = None\n" + _RUN,
    "later/weight": _CONV + "after: model.$m.weight = nn.Parameter(model.$m.weight.detach() * 2)\n" + _RUN,
    "later/pool": "init: self.$m = nn.[[Max|Avg]]Pool$d(2)\nafter: model.$m.stride = 1\n" + _RUN,
    "later/pool window": (
        "init: self.$m = nn.[[Max|Avg]]Pool$d(2)\nafter: model.$m.kernel_size = 3\n"
        "after: model.$m.padding = 1\n" + _RUN
    ),
    "later/eps": "init: self.$m = nn.BatchNorm$d($c)\nafter: model.$m.eps = .5\n" + _RUN,
    "later/upsample": "init: self.$m = nn.Upsample(scale_factor=2)\nafter: model.$m.scale_factor = 4\n"
    + _RUN,
    "later/group norm": "init: self.$m = nn.GroupNorm(1, $c)\nafter: model.$m.num_groups = $g\n" + _RUN,
    "later/slope": "init: self.$m = nn.LeakyReLU()\nafter: model.$m.negative_slope = .5\n" + _RUN,
    "hook/forward": _LEAF + "after: model.$m.register_forward_hook(lambda m, i, o: o * 2 + 1)\n" + _RUN,
    "hook/pre": _LEAF + "after: model.$m.register_forward_pre_hook(lambda m, i: (i[0] * 2 + 1,))\n" + _RUN,
    "hook/method": (
        "top: import types\n"
        + _LEAF
        + "after: model.$m.forward = types.MethodType(lambda m, x: type(m).forward(m, x * 2 + 1), model.$m)\n"
        + _RUN
    ),
    "hook/conv forward": (
        _CONV
        + "after: model.$m._conv_forward = lambda x, w, b: nn.Conv$d._conv_forward(model.$m, x * 2, w, b)\n"
        + _RUN
    ),
    "hook/block": (
        "init: self.$m = nn.Sequential(nn.Conv$d($c, $c, 1), nn.ReLU())\n"
        "after: model.$m.register_forward_hook(lambda m, i, o: o * 2)\n" + _RUN
    ),
    "hook/root": _OUTER + "$y = $x * 2",
    "subclass/convolution": """\
top: class Scaled(nn.Conv$d):
top:     def forward(self, x): return super().forward(x) * 2
init: self.$m = Scaled($c, $c, 3, padding=1)
$y = self.$m($x)
""",
    "subclass/standardised": """\
top: class Standardised(nn.Conv2d):
top:     def forward(self, x):
top:         w = self.weight
top:         w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
top:         return self._conv_forward(x, w, self.bias)
init: self.$m = Standardised($c, 6, 3, padding=1)
$y = self.$m($x)
""",
    "subclass/norm": """\
top: class Shifted(nn.BatchNorm$d):
top:     def forward(self, x): return super().forward(x) + 1
init: self.$m = Shifted($c)
$y = self.$m($x)
""",
    "weights/pruned": (
        "top: import torch.nn.utils.prune as prune\n"
        + _CONV
        + "after: prune.l1_unstructured(model.$m, 'weight', .5)\n"
        + _RUN
    ),
    "weights/normed": _CONV + "after: nn.utils.parametrizations.weight_norm(model.$m)\n" + _RUN,
    "weights/tied": """\
init: self.$m = nn.Conv$d($c, $c, 3, padding=1)
init: self.${m}b = nn.Conv$d($c, $c, 3, padding=1)
init: self.${m}b.weight = self.$m.weight
$y = self.${m}b(F.relu(self.$m($x)))
""",
    "weights/scaled": """\
init: self.$m = nn.Parameter(torch.randn($c, $c, *(3,) * $k) / 9)
$y = F.conv$d($x, self.$m * .5, padding=1)
""",
    "weights/function": """\
init: self.$m = nn.Parameter(torch.randn($c, $c, *(3,) * $k) / 9)
init: self.${m}b = nn.Parameter(torch.randn($c))
$y = F.conv$d($x, self.$m, self.${m}b, padding=1, stride=[[1|2]])
""",
    "weights/function, transposed": """\
init: self.$m = nn.Parameter(torch.randn($c, 6, *(2,) * $k) / 4)
$y = F.conv_transpose$d($x, self.$m, stride=2)
""",
    "weights/of two": """\
init: self.$m = nn.Conv$d($c, $c, 3, padding=1)
init: self.${m}b = nn.Parameter(torch.randn($c, $c, *(1,) * $k) / 9)
$y = self.$m($x) + F.conv$d($x, self.$m.weight * self.${m}b, self.$m.bias, padding=1)
""",
    "weights/bounded": """\
top: class Bounded(nn.Conv$d):
top:     def forward(self, x):
top:         [[self.weight.data = torch.renorm(self.weight.data, 2, 0, 1.)|self.weight.data.clamp_(-.1, .1)]]
top:         return super().forward(x)
init: self.$m = Bounded($c, 6, 3, padding=1)
$y = self.$m($x)
""",
    "weights/channels last": _CONV + "after: model.$m.to(memory_format=torch.channels_last)\n" + _RUN,
}
