"""HTML reports in a real browser: ``pytest -m browser``, with /usr/bin/chromium and the package playwright.

Asked for where there is no browser, these tests fail; they do not skip.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import octify
from octify.cli.main import main
from tests.cli.conftest import NET

pytestmark = pytest.mark.browser
CHROMIUM = "/usr/bin/chromium"
LIMIT = 1.0  # seconds from the start of the page's process to the end of loading


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages by name: a calibrated network, a sweep, and two large networks."""
    import torchvision

    home = tmp_path_factory.mktemp("browser")
    (home / "net.py").write_text(NET)
    torch.save(torch.randn(36, 3, 16, 16, generator=torch.manual_seed(0)), home / "data.pt")
    common = ("net.py", "--input", "1x3x16x16", "--calib", "data.pt", "--calib-effort", "fast", "-q")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        assert main(["convert", *common, "-o", "out", "--html", "net.html"]) == 0
        assert main(["sweep", *common, "--alpha", "0.25,0.5", "-o", "swept", "--html", "sweep.html"]) == 0
    for name in ("resnet50", "densenet121"):
        model = getattr(torchvision.models, name)()
        report = octify.inspect(model, torch.randn(1, 3, 224, 224), rules="everywhere")
        (home / f"{name}.html").write_text(report.to_html(), encoding="utf-8")
    return {path.stem: path for path in home.glob("*.html")}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Any, pages: dict[str, Path]) -> Iterator[Any]:
    """Open a page: ``opened(name, width, scheme)``. What the browser complains of fails the test."""
    contexts, told = [], []

    def open_page(name: str, width: int = 1400, scheme: str = "light", **options: Any) -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True, **options
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("requestfailed", lambda request: told.append(request.url))
        page.goto(pages[name].as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert told == []


def embedded(page: Any) -> Any:
    return json.loads(page.locator("#report").text_content())


def visible_rows(page: Any, table: str = "layer-table") -> list[Any]:
    return [row for row in page.locator(f"#{table} tbody tr").all() if row.is_visible()]


def column(page: Any, key: str, table: str = "layer-table") -> list[str]:
    """The values of a column in the order shown."""
    found = page.evaluate(
        """([table, key]) => {
            const whole = document.getElementById(table);
            const place = [...whole.tHead.rows[0].cells].findIndex((head) => head.dataset.key === key);
            return [...whole.tBodies[0].rows].map((row) => row.cells[place].dataset.value);
        }""",
        [table, key],
    )
    assert isinstance(found, list)
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["net", "sweep", "resnet50", "densenet121"])
def test_it_loads_in_a_second_and_fits_a_telephone(
    opened: Any, pages: dict[str, Path], name: str, scheme: str
) -> None:
    assert pages[name].stat().st_size < 1_000_000
    page = opened(name, 390, scheme)
    # Processor time, which is all it takes on an idle machine: other work may keep this one busy.
    metrics = page.context.new_cdp_session(page)
    metrics.send("Performance.enable", {"timeDomain": "threadTicks"})
    found = {each["name"]: each["value"] for each in metrics.send("Performance.getMetrics")["metrics"]}
    assert page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd") > 0
    assert 0 < found["ProcessTime"] < LIMIT
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 26)"}[scheme]


def test_what_is_shown_is_what_the_report_says(opened: Any, pages: dict[str, Path]) -> None:
    page = opened("net")
    report = json.loads((pages["net"].parent / "out" / "report.json").read_text())
    assert embedded(page) == report
    for key in (
        "macs_before",
        "macs_after",
        "parameters_after",
        "activation_bytes_after",
        "splits",
        "merges",
    ):
        cell = page.locator(f"[data-total={key}]")
        assert int(cell.get_attribute("data-value")) == report["totals"][key]
        assert cell.is_visible()
    for key in ("path", "macs_before", "macs_after", "parameters_after", "activation_bytes_after"):
        assert column(page, key) == [str(row[key]) for row in report["layers"]]
    drawn = page.locator(".network svg .box").count()
    assert 0 < drawn <= len(report["graph"])


def test_a_column_is_sorted_by_keyboard(opened: Any) -> None:
    page = opened("resnet50")
    layers = embedded(page)["layers"]
    head = page.locator("#layer-table th[data-key=macs_after]")
    button = head.get_by_role("button")
    ascending = sorted(row["macs_after"] for row in layers)
    button.focus()
    for order, wanted in (("descending", ascending[::-1]), ("ascending", ascending)):
        page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == order
        assert [int(value) for value in column(page, "macs_after")] == wanted
    page.locator("#layer-table th[data-key=path] button").click()
    assert page.locator("#layer-table th[aria-sort]").count() == 1
    assert sorted(column(page, "path")) == sorted(row["path"] for row in layers)
    assert column(page, "path")[0] == "conv1"


def test_layers_are_filtered(opened: Any) -> None:
    page = opened("resnet50")
    layers = embedded(page)["layers"]
    page.locator("[data-filter=text]").fill("layer3 3x3")
    wanted = [r["path"] for r in layers if r["path"].startswith("layer3") and r["kernel"] == [3, 3]]
    assert [row.locator("th").text_content() for row in visible_rows(page)] == wanted
    assert page.locator(".count").text_content() == f"{len(wanted)} of {len(layers)} layers"
    page.locator("[data-filter=text]").fill("")
    page.locator("[data-filter=kind]").select_option("linear")
    assert [row.locator("th").text_content() for row in visible_rows(page)] == ["fc"]
    page.locator("[data-filter=kind]").select_option("")
    page.locator("[data-filter=form]").select_option("octave")
    assert len(visible_rows(page)) == sum(bool(r["alpha_in"] or r["alpha_out"]) for r in layers)


def test_everything_is_there_without_javascript(opened: Any) -> None:
    page = opened("net", java_script_enabled=False)
    assert page.locator("#layer-table tbody tr").count() == len(embedded(page)["layers"])
    assert not page.locator(".filters").is_visible()
    assert page.locator(".network svg").is_visible()


def test_text_stands_out_from_its_ground(opened: Any) -> None:
    """At least 4.5 to 1 (WCAG 2.2, 1.4.3), for every colour that text has on the page's grounds."""
    for scheme in ("light", "dark"):
        page = opened("net", scheme=scheme)
        colours = page.evaluate(
            """() => Object.fromEntries(["paper", "panel", "ink", "soft", "link", "octave-fill", "split-fill",
                "merge-fill"].map((name) => [name,
                getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim()]))"""
        )
        for ground in ("paper", "panel"):
            for text in ("ink", "soft", "link"):
                assert contrast(colours[text], colours[ground]) >= 4.5, (scheme, text, ground)
        for ground in ("octave-fill", "split-fill", "merge-fill"):
            for text in ("ink", "soft"):
                assert contrast(colours[text], colours[ground]) >= 4.5, (scheme, text, ground)


def contrast(a: str, b: str) -> float:
    """The contrast ratio of two colours ``#rrggbb`` (WCAG 2.2)."""
    bright, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
