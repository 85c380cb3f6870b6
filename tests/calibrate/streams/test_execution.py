"""What calibration keeps of its images: the values themselves, within bounds, and nothing afterwards."""

from __future__ import annotations

import copy
import gc
import itertools
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import octify
from octify.calibrate import recipe
from octify.calibrate.channels.greedy import by_greedy
from octify.calibrate.fit.repair import repair
from octify.calibrate.inputs import images
from octify.calibrate.inputs.images import gather
from octify.calibrate.streams import store
from octify.calibrate.streams.execution import Stream, out_of_place
from octify.calibrate.streams.observe import sensitivity
from octify.calibrate.streams.store import Store
from octify.errors import OctifyError
from octify.passes.resolve import Planned
from octify.passes.rewrite import rewrite
from octify.planning.planner import make_plan
from octify.planning.ruleset import load_rules
from octify.trace import trace
from tests.places import ROOT


class Net(nn.Module):
    """Residual, with branches of one value, an in-place addition and a squeeze-and-excitation gate."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(True)
        )
        self.conv1 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, 1, 1)
        self.depthwise = nn.Conv2d(width, width, 3, 1, 1, groups=width)
        self.gate = nn.Conv2d(width, width, 1)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        r = self.bn1(self.conv1(x))
        r += x
        a, b = self.conv2(F.relu(r, inplace=True)).chunk(2, dim=1)
        y = self.depthwise(a) + b.sigmoid()
        y = y * torch.sigmoid(self.gate(y.mean((2, 3), keepdim=True)))
        return self.head(F.relu(y, True).mean((2, 3)))


def smooth(count: int, side: int = 24, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 8, 8, generator=generator)
    return F.interpolate(coarse, size=side, mode="bilinear")


def net(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    model = Net().train()
    for _ in range(3):
        model(smooth(32))
    return model.to(dtype).eval()


def repaired(model: nn.Module, chunks: list[tuple[Tensor, ...]], **options: Any) -> Tensor:
    """All parameters and statistics of the repaired model, as one vector."""
    traced = trace(model, chunks[0][0][:1])
    rewritten = rewrite(traced, make_plan(traced, load_rules("everywhere"), 0.5))
    repair(copy.deepcopy(traced), rewritten, chunks, rows=2000, seed=3, **options)
    return torch.cat([t.flatten().double() for t in rewritten.module.state_dict().values()])


@given(
    shape=st.lists(st.integers(1, 40), min_size=0, max_size=4),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool]),
    layout=st.permutations(range(4)),
    expanded=st.booleans(),
)
def test_what_comes_back_from_a_file_is_what_went_in(
    shape: list[int], dtype: torch.dtype, layout: list[int], expanded: bool
) -> None:
    order = [axis for axis in layout if axis < len(shape)]
    x = torch.randn([shape[axis] for axis in order]).mul(3).to(dtype)
    x = x.permute(sorted(range(len(order)), key=lambda place: order[place]))
    if expanded:
        x = x[..., None].expand(*x.shape, 2)
    value = (x, [7, None, torch.tensor(2.0)])
    with Store(0) as kept, pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "_LEAST", 0)
        values = kept.values(2)
        values.put(1, value)
        values.put(0, "first")
        found = values[1]
        assert kept.held == 0
        assert kept.written == x.numel() * x.element_size() + 4
        assert values[:1] == ["first"]
    assert torch.equal(found[0], x)
    assert (found[0].dtype, found[0].shape) == (x.dtype, x.shape)
    if not expanded:
        strides = zip(found[0].stride(), torch.empty_like(x).stride(), x.shape, strict=True)
        assert all(a == b for a, b, n in strides if n > 1)  # channels last stays channels last
    assert found[1][:2] == [7, None]
    assert found[1][2] == 2


def test_a_store_counts_what_it_holds_and_never_holds_more() -> None:
    with Store(1000 * 4) as kept:
        first, second = kept.values(2), kept.values(2)
        wide = torch.zeros(4, 300)
        first.put(0, wide[:1])  # alone, without what it is a view of
        assert kept.held == 1200
        assert first[0].untyped_storage().nbytes() == 1200
        first.put(1, wide[1:3])
        second.put(0, torch.zeros(20_000))
        assert (kept.held, kept.written) == (3600, 80_000)
        first.drop(1)
        assert kept.held == 1200
        first.clear()
        assert kept.held == 0
        second.put(1, torch.zeros(1000))
        assert kept.held == kept.most_held == 4000
    assert kept.held == 0


def test_streams_give_every_node_its_value_whatever_the_room() -> None:
    model, x = net(), smooth(6)
    traced = trace(model, x[:1])
    module = copy.deepcopy(traced.module)
    nodes = list(traced.module.graph.nodes)
    wanted: dict[str, Tensor] = {}

    class Noting(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> Any:
            result = super().run_node(n)
            wanted[n.name] = copy.deepcopy(result)
            return result

    with out_of_place(module), torch.no_grad():
        Noting(module, graph=traced.module.graph).run(x)
        for room in (0, 100_000, 2**30):
            with Store(room) as kept:
                stream = Stream(traced.module.graph, module, [(x[:4],), (x[4:],)], kept)
                for node in nodes:
                    stream.hold(node)
                for node in reversed(nodes):
                    for i, part in enumerate((slice(0, 4), slice(4, 6))):
                        value = stream.values(node)[i]
                        if isinstance(value, Tensor) and node.op != "get_attr":
                            torch.testing.assert_close(value, wanted[node.name][part])
                assert kept.most_held <= room
                for node in nodes:
                    stream.release(node)
                assert not stream.kept()
                assert kept.held == 0


def test_only_what_is_still_to_be_read_is_kept() -> None:
    chain = nn.Sequential(*(part for _ in range(5) for part in (nn.Conv2d(3, 3, 1), nn.ReLU()))).eval()
    x = smooth(8)
    traced = trace(chain, x[:1])
    with Store() as kept:
        stream = Stream(traced.module.graph, traced.module, [(part,) for part in x.split(2)], kept)
        for node in traced.module.graph.find_nodes(op="call_module"):
            stream.values(node)
            assert stream.kept() == {node}
        value = x[:2].numel() * 4
        # All chunks of one value, and of another the chunk that is being computed.
        assert kept.most_held <= 5 * value


def test_repair_is_the_same_in_memory_and_in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    model, chunks = net(), [(part,) for part in smooth(40).split(16)]
    in_memory = repaired(model, chunks)
    assert torch.equal(repaired(model, chunks), in_memory)
    monkeypatch.setattr(store, "IN_MEMORY", 0)
    assert torch.equal(repaired(model, chunks), in_memory)
    gc.collect()  # a file left open would warn, and warnings are errors


def test_chunks_of_any_size_give_the_same_repair_to_rounding() -> None:
    model, x = net(torch.float64), smooth(40).double()
    whole = repaired(model, [(x,)], refits=0)
    parted = repaired(model, [(part,) for part in x.split(7)], refits=0)
    # The same rows, summed in another order: what the condition of the ridge problem (1e2 of the mean over
    # 1e-6, for the bias) makes of rounding, five layers deep.
    torch.testing.assert_close(parted, whole, rtol=0, atol=1e10 * 2**-52)


def test_fisher_weights_do_not_depend_on_the_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = net(torch.float64), smooth(12).double()
    traced = trace(model, x[:1])
    names = [n.name for n in traced.module.graph.find_nodes(op="call_module") if "conv" in n.name]
    whole = sensitivity(traced, [(x,)], names, 0)
    monkeypatch.setattr("octify.calibrate.streams.observe._FOR_GRADIENTS", 1)
    parted = sensitivity(traced, [(x[:7],), (x[7:],)], names, 0)
    assert set(whole) == set(parted) == set(names)
    for name in names:
        torch.testing.assert_close(parted[name], whole[name])


def test_models_in_double_precision_and_channels_last(monkeypatch: pytest.MonkeyPatch) -> None:
    # Adam's steps are those of signs: rounding decides those of the smallest gradients.
    monkeypatch.setattr(recipe, "STEPS", {})
    x, test = smooth(48), smooth(16, seed=1)
    outputs = []
    for dtype, layout in (
        (torch.float32, torch.contiguous_format),
        (torch.float32, torch.channels_last),
        (torch.float64, torch.contiguous_format),
    ):
        model = net(dtype).to(memory_format=layout)
        data = x.to(dtype).contiguous(memory_format=layout)
        # Channels by energy: by greedy those that are nearly as good as one another may change places.
        result = octify.convert(
            model, data[:1], rules="everywhere", calibration=[data], channel_order="energy"
        )
        given = test.to(dtype).contiguous(memory_format=layout)
        outputs.append(result.model(given).detach().double())
        assert {t.dtype for t in result.model.parameters()} == {dtype}
        report = result.report.calibration
        assert report is not None
        assert report.after.relative_error < report.before.relative_error
    spread = (outputs[2] - outputs[2].mean(0)).norm()
    for y in outputs[:2]:
        # float32 rounding, times the condition number (1e2) of every fit.
        assert (y - outputs[2]).norm() < 1e-3 * spread


def test_progress_goes_from_nothing_to_all_of_the_work() -> None:
    model, x = net(), smooth(40)
    traced = trace(model, x[:1])
    told: dict[str, list[tuple[str, int, int]]] = {"greedy": [], "repair": []}
    plan = make_plan(traced, load_rules("everywhere"), 0.5)
    by_greedy(traced, Planned(plan), [(x,)], rows=500, progress=lambda *step: told["greedy"].append(step))
    rewritten = rewrite(traced, plan)
    repair(
        copy.deepcopy(traced), rewritten, [(x,)], rows=500, progress=lambda *step: told["repair"].append(step)
    )
    for steps in told.values():
        done = [step[1] for step in steps]
        assert done[0] == 0
        assert all(a < b for a, b in itertools.pairwise(done))
        assert len({step[2] for step in steps}) == 1
        assert done[-1] < steps[0][2]
    assert [step[0] for step in told["repair"]] == [c.path for c in plan.convs if c.converted]


def test_large_inputs_are_taken_in_smaller_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    traced = trace(net(), smooth(1))
    x = smooth(64)
    cpu = torch.device("cpu")
    assert not gather(traced, [x], device=cpu).warnings
    monkeypatch.setattr(images, "INPUTS", 40 * 3 * 24 * 24 * 4)
    found = gather(traced, [x], device=cpu)
    assert found.count + sum(len(part[0]) for part in found.held_out) == 40
    assert any("only 40 calibration inputs" in warning for warning in found.warnings)
    monkeypatch.setattr(images, "VALUES", 1)
    assert any("only 16 calibration" in warning for warning in gather(traced, [x], device=cpu).warnings)


def test_a_full_disk_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def seek(self, offset: int) -> None: ...

        def write(self, data: memoryview) -> int:
            raise OSError(28, "No space left on device")

        def close(self) -> None: ...

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **options: Full())
    with Store(0) as kept, pytest.raises(OctifyError, match="no room for calibration's values") as failure:
        kept.values(1).put(0, torch.zeros(100_000))
    assert "No space left" in str(failure.value)


# Repairs a network on as many images as it is told, one number after another, with little room in
# memory, and tells the peak memory so far; or says when values are in a file, and sleeps.
_SCRIPT = """\
import resource, sys, time
from tests.calibrate.streams.test_execution import net, repaired, smooth
from octify.calibrate.streams import store

def tell_and_sleep(self, index):
    if self._file is not None:
        print("spilled", flush=True)
        time.sleep(60)

store.IN_MEMORY = 4 * 2**20
if sys.argv[1] == "sleep":
    store.StoredValues.drop = tell_and_sleep
for images in map(int, sys.argv[2:]):
    repaired(net(), [(part,) for part in smooth(images, side=48).split(16)], refits=0)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""


def start(tmp: Path, *arguments: str) -> subprocess.Popen[str]:
    paths = [str(ROOT), str(ROOT / "tests" / "quirk")]
    # glibc gives freed memory back at once, so that the peak is what was in use and not what was hoarded.
    own = {"TMPDIR": str(tmp), "PYTHONPATH": os.pathsep.join(paths), "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", _SCRIPT, *arguments]
    return subprocess.Popen(command, env=os.environ | own, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no resource module")
def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    with start(tmp_path, "measure", "32", "128") as process:
        few, many = map(int, process.communicate(timeout=300)[0].split())
    inputs, one_value = (96 * channels * 48 * 48 * 4 for channels in (3, 32))
    assert many - few < 2 * inputs + one_value / 4  # of which several would be kept at once


@pytest.mark.skipif(sys.platform == "win32", reason="files have names there until they are closed")
def test_files_have_no_names_and_do_not_outlive_the_process(tmp_path: Path) -> None:
    with start(tmp_path, "sleep", "32") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "spilled\n"
        assert not list(tmp_path.iterdir())
        process.kill()
    assert not list(tmp_path.iterdir())
