"""``octify report``: the stored report again, and its HTML page, which says what report.json says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import octify as library
from octify.cli.main import main
from octify.report import Report
from octify.report.html import conversion_page
from octify.report.html.page import as_json
from tests import html_page
from tests.cli.conftest import NET

pytestmark = pytest.mark.usefixtures("short_calibration")

Octify = Callable[..., Any]
NASTY = "</script><img src=x onerror=\"alert('1')\"> & <b>"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``out``, calibrated, and ``out.html``, the page that convert wrote with it."""
    home = tmp_path_factory.mktemp("report")
    (home / "net.py").write_text(NET)
    torch.save(torch.randn(36, 3, 16, 16, generator=torch.manual_seed(0)), home / "data.pt")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        options = (
            "--input",
            "1x3x16x16",
            "--alpha",
            "0.5",
            "--calib",
            "data.pt",
            "--calib-effort",
            "fast",
            "-q",
        )
        assert main(["convert", "net.py", *options, "-o", "out", "--html", "out.html"]) == 0
    return home


@pytest.fixture
def folder(home: Path, tmp_path: Path) -> Path:
    """A copy of ``out`` that a test may change."""
    return Path(shutil.copytree(home / "out", tmp_path / "out"))


@pytest.fixture
def stored(folder: Path) -> dict[str, Any]:
    document = json.loads((folder / "report.json").read_text())
    assert isinstance(document, dict)
    return document


def page_of(octify: Octify, folder: str = "out") -> html_page.Element:
    outcome = octify("report", folder, "--html", "page.html")
    assert outcome.code == 0, outcome.err
    return html_page.read(Path("page.html").read_text(encoding="utf-8"))


def test_the_terminal_shows_the_stored_report(octify: Octify, folder: Path, stored: dict[str, Any]) -> None:
    outcome = octify("report", folder)
    assert outcome.code == 0
    assert f"{stored['totals']['macs_after'] / 1e9:.3f} GMACs" in outcome.out
    assert all(row["path"] in outcome.out for row in stored["layers"])
    assert "power above 0.25 cycles per pixel" in outcome.out
    assert octify("report", folder, "--json").json == stored


def test_the_page_of_convert_is_that_of_report(home: Path, octify: Octify, folder: Path) -> None:
    shutil.copy(home / "net.py", "net.py")
    page_of(octify)
    assert Path("page.html").read_bytes() == (home / "out.html").read_bytes()


def test_numbers_on_the_page_are_those_of_the_report(
    octify: Octify, folder: Path, stored: dict[str, Any]
) -> None:
    page = page_of(octify)
    assert html_page.data(page) == stored
    totals = {e.attributes["data-total"]: e for e in page.all("td") if "data-total" in e.attributes}
    assert {key: int(each.attributes["data-value"]) for key, each in totals.items()} == {
        key: value for key, value in stored["totals"].items() if key != "convolutions"
    }
    assert totals["macs_after"].text == f"{stored['totals']['macs_after'] / 1e9:.3f} GMACs"
    assert totals["parameters_before"].text == f"{stored['totals']['parameters_before'] / 1e6:.3f} million"

    shown = html_page.rows(page, "layer-table")
    assert len(shown) == len(stored["layers"])
    for cells, row in zip(shown, stored["layers"], strict=True):
        for key in cells.keys() - {"kernel", "output_size", "saved", "error"}:
            assert cells[key][1] == str(row[key]), key
        assert cells["macs_after"][0] == f"{row['macs_after'] / 1e6:.2f}"
        assert cells["output_size"][1] == "x".join(map(str, row["output_size"]))
    errors = html_page.rows(page, "error-table")
    wanted = [(e["path"], e["branch"], str(e["after"])) for e in stored["calibration"]["layers"]]
    assert [(e["path"][1], e["branch"][1], e["after"][1]) for e in errors] == wanted
    left = [(cells["path"][0], cells["reason"][0]) for cells in html_page.rows(page, "left-dense-table")]
    assert left == [(each["path"], each["reason"]) for each in stored["left_dense"]]


def test_the_spectrum_is_on_the_page_with_its_method(
    octify: Octify, folder: Path, stored: dict[str, Any]
) -> None:
    spectrum = stored["spectrum"]
    (section,) = page_of(octify).all("section", id="frequencies")
    assert spectrum["method"] in section.text
    for band in ("low", "high"):
        assert f"{spectrum[band]['above_quarter']:.1%}" in section.text
    maps = html_page.rows(section, "spectrum-table")
    assert [row["low_above"][1] for row in maps] == [str(m["low"]["above_quarter"]) for m in spectrum["maps"]]


def test_a_page_needs_nothing_but_itself(octify: Octify, folder: Path) -> None:
    page = page_of(octify)
    text = Path("page.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|@import|url\(|\bsrc=", text)
    links = [e.attributes["href"] for e in page.all() if "href" in e.attributes]
    targets = {e.attributes["id"] for e in page.all() if "id" in e.attributes}
    assert set(links) <= {f"#{key}" for key in targets} | {"data:,"}
    assert len(text.encode()) < 100_000
    ids = [e.attributes["id"] for e in page.all() if "id" in e.attributes]
    assert len(ids) == len(set(ids))


def test_tables_are_accessible(octify: Octify, folder: Path) -> None:
    page = page_of(octify)
    for table in page.all("table"):
        head, *body = table.all("tr")
        assert all(cell.name == "th" and cell.attributes["scope"] == "col" for cell in head.children)
        assert all(row.children[0].name == "th" for row in body)
        assert all(row.children[0].attributes["scope"] == "row" for row in body)
    assert all(svg.attributes.get("aria-label") or "aria-hidden" in svg.attributes for svg in page.all("svg"))
    regions = page.all("div", role="region")
    assert regions and all(e.attributes["aria-label"] and e.attributes["tabindex"] == "0" for e in regions)


def test_names_are_escaped(octify: Octify, folder: Path, stored: dict[str, Any]) -> None:
    plain = page_of(octify)
    stored["model"] = stored["layers"][1]["path"] = stored["layers"][1]["kind"] = NASTY
    stored["warnings"] = [NASTY]
    stored["left_dense"][0] = {"path": NASTY, "reason": NASTY}
    stored["graph"][2]["path"] = stored["graph"][3]["operation"] = NASTY
    stored["calibration"]["layers"][0]["path"] = NASTY
    stored["spectrum"]["maps"][0]["read_by"] = [NASTY]
    (folder / "report.json").write_text(json.dumps(stored))
    page = page_of(octify)
    assert html_page.data(page) == stored
    assert {e.name for e in page.all()} == {e.name for e in plain.all()}
    assert len(page.all("script")) == 2
    assert page.all("h1")[0].text.startswith(NASTY)
    assert any(NASTY in row["path"][0] for row in html_page.rows(page, "layer-table"))


def test_without_calibration_the_page_says_so(octify: Octify, net: Path) -> None:
    assert octify("convert", net, "--alpha", "0.5", "-o", "out").code == 0
    page = page_of(octify)
    for key in ("accuracy", "errors", "frequencies"):
        (section,) = page.all("section", id=key)
        assert "made without calibration data" in section.text
    (section,) = page.all("section", id="latency")
    assert "Not measured" in section.text


def test_latency_is_that_of_bench(octify: Octify, folder: Path, home: Path) -> None:
    shutil.copy(home / "net.py", "net.py")
    timed = octify("bench", "out", "--rounds", "1", "--runtime", "eager", "--json")
    (folder / "bench.json").write_text(timed.out)
    rows = html_page.rows(page_of(octify), "latency-table")
    assert [(row["model"][0], row["median"][1]) for row in rows] == [
        (row["model"], str(row["timing"]["median"])) for row in timed.json["rows"]
    ]
    assert "latency" in octify("report", "out").out


def test_a_report_of_an_older_version(octify: Octify, folder: Path, stored: dict[str, Any]) -> None:
    for key in ("graph", "spectrum", "tuning", "allocation", "calibration"):
        del stored[key]
    (folder / "report.json").write_text(json.dumps(stored))
    (section,) = page_of(octify).all("section", id="network")
    assert "holds no graph" in section.text
    assert octify("report", "out").code == 0


def test_a_report_reads_back_as_it_was(stored: dict[str, Any]) -> None:
    report = Report.from_dict(stored)
    assert json.loads(json.dumps(report.to_dict())) == stored
    assert conversion_page(report) == report.to_html()


def test_numbers_that_json_does_not_know_are_null() -> None:
    assert as_json({"a": [float("nan"), float("inf"), 1.5]}) == '{"a":[null,null,1.5]}'


def test_a_sweep(octify: Octify, net: Path) -> None:
    run = octify("sweep", net, "--alpha", "0.25,0.5", "-o", "swept", "--html", "swept.html", "--json")
    assert run.code == 0, run.err
    assert run.json["written"]["html"] == "swept.html"
    page = page_of(octify, "swept")
    assert Path("page.html").read_bytes() == Path("swept.html").read_bytes()
    assert html_page.data(page) == json.loads(Path("swept/sweep.json").read_text())
    for cells, point in zip(html_page.rows(page, "points-table"), run.json["points"], strict=True):
        for key, (_, value) in cells.items():
            assert value == str(point[key]), key
    (section,) = page.all("section", id="error")
    assert "Not measured" in section.text
    assert "default" in octify("report", "swept").out
    assert octify("report", "swept", "--json").json == html_page.data(page)


def test_a_written_page_in_json(octify: Octify, folder: Path, stored: dict[str, Any]) -> None:
    outcome = octify("report", folder, "--html", "deep/er/page.html", "--json")
    assert outcome.json == stored | {"written": {"html": "deep/er/page.html"}}
    assert Path("deep/er/page.html").read_text().startswith("<!DOCTYPE html>")


def test_the_picture_of_one_conversion(octify: Octify, folder: Path, refused: Callable[..., str]) -> None:
    outcome = octify("report", folder, "--svg", "x.svg", "--json")
    assert outcome.code == 0 and outcome.json["written"] == {"svg": "x.svg"}
    assert Path("x.svg").read_text(encoding="utf-8").startswith("<svg ")
    assert "a picture shows one conversion" in refused("report", folder, folder, "--svg", "y.svg")
    assert not Path("y.svg").exists()


def test_a_dry_run_writes_no_page(octify: Octify, net: Path) -> None:
    assert octify("convert", net, "--dry-run", "--html", "page.html").code == 0
    assert not Path("page.html").exists()


@pytest.mark.parametrize(
    ("change", "arguments", "told"),
    [
        (None, ("gone",), "there is no such folder"),
        (None, ("net.py",), "it is a file"),
        (None, (".",), "neither report.json nor sweep.json"),
        (None, ("out", "--html", "out"), "cannot write out"),
        (None, ("out", "--html", "net.py/page.html"), "net.py is not a folder"),
        (("report.json", "{"), ("out",), "out/report.json cannot be read"),
        (("report.json", "[]"), ("out",), "it is not a JSON object"),
        (("report.json", "{}"), ("out",), "model: Field required"),
        (("report.json", '{"calibration": {"uncalibrated": [1]}}'), ("out",), "of the wrong kind"),
        (("bench.json", '{"rows": 3}'), ("out",), "out/bench.json cannot be read"),
    ],
)
def test_what_is_no_folder_of_octifys(
    refused: Callable[..., str],
    folder: Path,
    net: Path,
    change: tuple[str, str] | None,
    arguments: tuple[str, ...],
    told: str,
) -> None:
    if change is not None:
        (folder / change[0]).write_text(change[1])
    assert told in refused("report", *arguments)
    assert not list(Path().glob("*.html"))


def test_a_page_that_cannot_be_written_is_told_before_the_work(
    refused: Callable[..., str], net: Path, listing: Callable[[], set[str]]
) -> None:
    for command in ("convert", "sweep"):
        assert "cannot write ." in refused(command, net, "--html", ".")
    assert listing() == {"net.py"}


def test_reading_a_report_imports_no_torch(start: Callable[..., subprocess.Popen[str]], folder: Path) -> None:
    code = (
        "import sys; from octify.cli.main import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    )
    arguments = ("report", str(folder), "--html", "page.html")
    assert start("-c", code, *arguments, stdout=subprocess.DEVNULL).wait() == 0


def test_a_profile_has_no_conversion_to_show() -> None:
    report = library.profile(torch.nn.Conv2d(3, 8, 3), torch.randn(1, 3, 8, 8))
    page = html_page.read(report.to_html())
    assert [e.attributes["id"] for e in page.all("section")] == ["totals", "layers"]


def test_a_real_network_makes_a_page_below_a_megabyte() -> None:
    import torchvision

    report = library.inspect(torchvision.models.resnet50(), torch.randn(1, 3, 224, 224))
    assert len(report.to_html().encode()) < 400_000
