"""Constants made while the forward runs, changes of dtype, and unusual ways to call: faults M3 and D."""

IDIOMS: dict[str, str] = {
    "constant/attribute": "init: self.$m = torch.rand(1, $c, $ones)\n$y = $x - self.$m.to($x)",
    "constant/moved": """\
init: self.$m = torch.rand(1, $c, $ones)
self.$m = self.$m.[[type_as($x)|to($x.device).type_as($x)]]
$y = $x - self.$m
""",
    "constant/new": "$y = $x - torch.tensor([.1] * $c, dtype=$x.dtype).view(1, $c, $ones)",
    "constant/view of a parameter": "init: self.$m = nn.Parameter(torch.rand($c))\n$y = $x * self.$m.view(1, -1, $ones)",
    "constant/arithmetic": "init: self.$m = nn.Parameter(torch.rand(1, $c, $ones))\n$y = $x * (1 + self.$m)",
    "constant/transposed": """\
init: self.register_buffer('$m', torch.rand(2, $c).t())
$y = $x * self.$m[:, 0].view(1, -1, $ones)
""",
    "dtype/float": "$y = $x.float().to($x.dtype)",
    "dtype/half": "$y = $x.half().to($x.dtype) * 2",
    "dtype/bfloat16": "$y = ($x * 2).to(torch.bfloat16).double()",
    "dtype/norm in float": "$y = F.normalize($x.float(), dim=1).type_as($x)",
    "dtype/mask": "$y = $x * ($x > 0)",
    "dtype/mask of a size": "$y = $x * ($x > 0).to($x.dtype)",
    "dtype/where": "$y = torch.where($x > 0, $x, $x * .1)",
    "dtype/masked_fill": "$y = $x.masked_fill($x < 0, 0.)",
    "call/keywords": "$y = F.max_pool$d(input=$x, kernel_size=3, stride=1, padding=1)",
    "call/keyword cat": "$y = torch.cat(tensors=[$x, $p], dim=1)",
    "call/negative dimension": "$y = torch.cat([$x, $p], -$k - 1)",
    "call/torch relu": "$y = torch.relu(input=$x)",
    "call/lambda": "double = lambda t: t * 2\n$y = double($x)",
    "call/method of self": """\
top: def doubled(x): return x * 2
$y = doubled($x)
""",
    "call/function with a backward": """\
top: class Swish(torch.autograd.Function):
top:     @staticmethod
top:     def forward(ctx, x): ctx.save_for_backward(x); return x * torch.sigmoid(x)
top:     @staticmethod
top:     def backward(ctx, g): s = torch.sigmoid(ctx.saved_tensors[0]); return g * s * (1 + ctx.saved_tensors[0] * (1 - s))
$y = Swish.apply($x)
""",
    "call/rounded straight through": """\
top: class Rounded(torch.autograd.Function):
top:     @staticmethod
top:     def forward(ctx, x): return torch.round(x * 8) / 8
top:     @staticmethod
top:     def backward(ctx, g): return g
$y = Rounded.apply($x)
""",
    "call/comprehension": "$y = torch.cat([p * 2 for p in $x.chunk(2, 1)], 1)",
    "call/dict": "parts = {'a': $x, 'b': $o}\n$y = parts['a'] + parts['b']",
    "call/max indices": """\
$y, index = F.max_pool2d($x, 2, return_indices=True)
$y = F.max_unpool2d($y, index, 2)
""",
    "call/unfold": "$y = F.fold(F.unfold($x, 3, padding=1), $x.shape[2:], 3, padding=1)",
    "call/grid": """\
grid = F.affine_grid(torch.eye(2, 3).to($x).expand($x.size(0), 2, 3), $x.shape, align_corners=False)
$y = F.grid_sample($x, grid, align_corners=False)
""",
    "call/einsum": "$y = torch.einsum('nchw,ncHW->nchw', $x, $o) * .01",
    "call/matmul": "$y = $x @ $x.transpose(-1, -2) * .1",
    "call/bmm": "$y = torch.bmm($x.flatten(2), $o.flatten(2).transpose(1, 2)) * .1",
    "call/topk": "$y = $x.topk(2, 1).values",
    "call/sort": "$y = $x.sort(1)[0]",
    "call/rot90": "$y = $x.rot90(1, (2, 3))",
    "call/index": "$y = $x[:, [1, 0]]",
    "call/index by tensor": "$y = $x[:, torch.tensor([2, 0, 1])]",
    "call/step": "$y = $x[..., ::2, ::2]",
    "call/none": "$y = $x[:, None].squeeze(1)",
}
