"""The benchmark's pieces: a row, the peers' MACs, an interrupted run that goes on, what is demanded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import octify
from tests.benchmarks.accuracy import __main__ as command
from tests.benchmarks.accuracy import data, methods, nets, peers
from tests.benchmarks.accuracy.docs import write
from tests.benchmarks.accuracy.measure import Row, row, standard_error
from tests.benchmarks.accuracy.methods import EXAMPLE, METHODS, Case
from tests.benchmarks.accuracy.store import Store, key
from tests.benchmarks.accuracy.summary import by_network, demands, means

ROW = Row(
    "vgg", "digits", 0.5, "standard", 256, 0, "test", 2000, 0.9, 0.89, 0.007, 0.01, 0.004, 0.95, 0.005, 0.2,
    0.5, 9.0, "2.13.0",
)  # fmt: skip


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Splits of 120 images, so that a row takes a second."""
    whole = data.split

    def few(task: str, name: str, draw: int = 0) -> data.Labelled:
        split = whole(task, name, draw)
        return data.Labelled(split.images[:120], split.labels[:120])

    monkeypatch.setattr(data, "split", few)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("method", ["slice", "norm"])
def test_a_row_is_what_its_network_does(method: str) -> None:
    case = Case("vgg", "digits", 0.5, 32, 0)
    found = row(method, case, "choose")
    made = methods.make(method, case).model  # the same again: seeds decide everything
    images, labels = data.split("digits", "choose")
    with torch.inference_mode():
        given, wanted = made(images).argmax(1), case.model(images).argmax(1)
    assert found.tested == 120
    assert found.accuracy == pytest.approx(float((given == labels).double().mean()))
    assert found.agreement == pytest.approx(float((given == wanted).double().mean()))
    assert found.drop == pytest.approx(found.original - found.accuracy)
    share = found.accuracy * (1 - found.accuracy)
    assert found.accuracy_error == pytest.approx((share / 119) ** 0.5)
    assert 0.4 < found.macs_ratio < 0.7


def test_the_standard_error_of_a_drop_counts_only_images_that_differ() -> None:
    before, after = torch.ones(100), torch.ones(100)
    after[:4] = 0
    assert standard_error(before - after) == pytest.approx((0.04 * 0.96 / 99) ** 0.5)


@pytest.mark.parametrize("net", nets.NETS)
def test_pruned_networks_have_the_macs_that_are_wanted(net: str) -> None:
    model, example = nets.build(net, "digits").eval(), torch.zeros(EXAMPLE)
    totals = octify.profile(model, example).totals
    assert peers.macs(model, example) == totals.macs_before
    before = model.state_dict()
    wanted = 0.5
    pruned, share = peers.pruned(model, example, wanted)
    assert share == pytest.approx(wanted, rel=0.02)
    assert share == peers.macs(pruned, example) / totals.macs_before
    assert pruned(torch.zeros(2, 3, data.SIDE, data.SIDE)).shape == (2, 10)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_slices_are_parts_of_the_original_kernel() -> None:
    case = Case("mobilenet", "digits", 0.5, 32, 0)
    sliced = methods.make("slice", case).model
    for path, conv in sliced.named_modules():
        if not isinstance(conv, methods.OctaveConv):
            continue
        original = case.model.get_submodule(path).weight
        parts = [getattr(conv, name).weight.flatten(1) for name in conv.recipes]
        values = torch.cat([part.flatten() for part in parts])
        # Every number of the original once (depthwise: all of them; the last channels are low).
        assert torch.equal(values.sort().values, original.flatten().sort().values), path


def test_distillation_of_a_peer_brings_it_closer_to_its_teacher() -> None:
    torch.manual_seed(0)
    teacher = nets.load("vgg", "digits")
    images = data.split("digits", "pool").images[:64]
    pruned, _ = peers.pruned(teacher, torch.zeros(EXAMPLE), 0.6)
    peers.renormalise(pruned, images)
    with torch.inference_mode():
        wanted = teacher(images)
        before = (pruned(images) - wanted).norm()
    peers.distil(pruned, teacher, images, seed=0, steps=20)
    with torch.inference_mode():
        assert (pruned(images) - wanted).norm() < before


@pytest.mark.usefixtures("small")
def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run.json"
    arguments = ["--nets", "vgg", "--tasks", "digits", "--alphas", "0.25", "0.5"]
    arguments += ["--methods", "slice", "norm", "--images", "32", "--seeds", "1", "--json", str(out)]
    assert command.main(arguments) == 0
    whole = json.loads(out.read_text())
    assert len(whole["rows"]) == whole["wanted"] == 4

    kept = out.with_suffix(".jsonl").read_text().splitlines()
    out.with_suffix(".jsonl").write_text("\n".join(kept[:3]) + "\n" + kept[3][:20])  # cut while writing
    made = []
    monkeypatch.setattr(
        "tests.benchmarks.accuracy.measure.row",
        lambda method, case, split: made.append((method, case)) or row(method, case, split),
    )
    assert command.main(arguments) == 0
    assert len(made) == 1
    again = json.loads(out.read_text())
    for document in (whole, again):
        for one in document["rows"]:
            del one["seconds"]
    assert again["rows"] == whole["rows"]


def test_rows_are_told_apart_by_everything_that_decides_them(tmp_path: Path) -> None:
    store = Store(tmp_path / "rows.jsonl")
    store.add(ROW)
    for changed in (
        replace(ROW, net="resnet"),
        replace(ROW, task="textures"),
        replace(ROW, alpha=0.25),
        replace(ROW, method="fast"),
        replace(ROW, images=64),
        replace(ROW, seed=1),
        replace(ROW, split="choose"),
    ):
        case = Case(changed.net, changed.task, changed.alpha, changed.images, changed.seed)
        assert key(changed.method, case, changed.split) not in store.rows
    assert list(Store(tmp_path / "rows.jsonl").rows.values()) == [ROW]
    assert not Store(tmp_path / "rows.jsonl", fresh=True).rows


def test_demands_are_judged_by_the_mean_over_seeds() -> None:
    rows = [replace(ROW, drop=0.028), replace(ROW, drop=0.032, seed=1)]  # 3.0 points; 2.9 are allowed
    assert by_network(rows) == {"vgg-digits": pytest.approx(3.0)}
    found = {d.text: d for d in demands(rows, 256)}
    missed = found["standard within 2.9 points of the original at alpha 0.5"]
    assert missed.measured == 1 and missed.missed == ("vgg-digits 3.0",)
    draws = next(d for text, d in found.items() if "another draw" in text)
    assert draws.measured == 1 and not draws.missed
    better = [*rows, replace(ROW, method="norm", drop=0.02)]
    assert any("never below" in d.text and d.missed for d in demands(better, 256))
    few = [*rows, replace(ROW, images=64, drop=0.05)]
    assert any("64 images" in d.text and d.missed for d in demands(few, 256))


def test_means_count_every_network_once() -> None:
    rows = [replace(ROW, drop=0.01), replace(ROW, drop=0.03, seed=1), replace(ROW, net="resnet", drop=0.05)]
    (mean,) = means(rows, 256)
    assert (mean.networks, mean.worst_of) == (2, "resnet-digits")
    assert mean.drop == pytest.approx((2 + 5) / 2)


def test_the_page_has_every_row(tmp_path: Path) -> None:
    rows = [ROW, replace(ROW, method="slice", accuracy=0.1, drop=0.8)]
    document = {"command": "c", "images": 256, "versions": {"torch": "2"}, "rows": [vars(r) for r in rows]}
    (tmp_path / "a.json").write_text(json.dumps(document))
    write(tmp_path / "a.json", tmp_path / "a.md")
    page = (tmp_path / "a.md").read_text()
    assert "| vgg | digits | 0.5 | slice | 256 | 0 | 10.0+-0.7 | 80.0+-0.4 |" in page
    assert "not measured" in page


def test_methods_are_what_the_table_says() -> None:
    documented = [
        line.split("|")[1].strip() for line in str(methods.__doc__).splitlines() if line.startswith("| ")
    ]
    assert documented[1:] and set(documented) - {"method"} == set(METHODS)
