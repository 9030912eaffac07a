"""The page in a real browser: sorting, curves, filters, keys, light and dark, a phone, and no console errors."""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import chromium
import pytest
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra

from eigencam.commands.main import main
from eigencam.running.run import run

NEEDS_CHROMIUM = "no Chromium on this machine (Debian: apt-get install chromium)"
pytestmark = [pytest.mark.full, pytest.mark.skipif(chromium.find() is None, reason=NEEDS_CHROMIUM)]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    GlobalHydra.instance().clear()
    chosen = ["method=[eigencam,gradcam,random]", "evaluator=[localization,segmentation]", "timing=false"]
    small = ["dataset.count=24", "workers=0", "device=cpu", "batch_size=24", f"paths.results={folder / 'runs'}"]
    with initialize_config_module("eigencam.configs", version_base="1.3"):
        run(compose("run", [*chosen, *small]), say=lambda _line: None)
    out = folder / "page.html"
    assert main(["report", "--results", str(folder / "runs"), "--out", str(out), "--images", "12"]) == 0
    return out


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Page]:
    with chromium.page(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def there(browser: chromium.Page, page: Path) -> Iterator[chromium.Page]:
    """The newly loaded page; after the test, the console has no errors and nothing was requested."""
    browser.size(1200, 900)
    browser.open(page)
    yield browser
    assert browser.faults == []


def column(browser: chromium.Page, k: int) -> list[str]:
    return browser.ask(f"[...document.querySelectorAll('table')[0].tBodies[0].rows].map(r => r.cells[{k}].innerText)")


def sorts(browser: chromium.Page) -> list[str]:
    return browser.ask(
        "[...document.querySelectorAll('table')[0].querySelectorAll('th[scope=col]')].map(h => h.ariaSort)"
    )


def cards(browser: chromium.Page) -> list[str]:
    return browser.ask("[...document.querySelectorAll('#cards h3')].map(h => h.textContent)")


def choose(browser: chromium.Page, **fields: str) -> None:
    for name, value in fields.items():
        browser.ask(
            f"(() => {{ const e = document.querySelector('[name={name}]'); e.value = {json.dumps(value)};"
            "e.dispatchEvent(new Event('input', {bubbles: true})) })()"
        )


def data(browser: chromium.Page) -> dict[str, Any]:
    found = json.loads(browser.ask("document.getElementById('data').textContent"))["sets"]
    return found["scenes test"]


def method(image: dict[str, Any], name: str) -> dict[str, Any]:
    return image["networks"]["scenes_resnet"]["methods"][name]


def test_a_table_sorts_by_mouse_and_by_keyboard(there: chromium.Page, page: Path) -> None:
    before = column(there, 2)
    assert sorts(there) == ["none"] * len(sorts(there))
    there.click("table th:nth-child(3) button")
    numbers = [float(text.split()[0]) for text in column(there, 2)]
    assert numbers == sorted(numbers)
    assert sorts(there)[2] == "ascending"
    there.key("Enter")  # the button has the focus
    numbers = [float(text.split()[0]) for text in column(there, 2)]
    assert numbers == sorted(numbers, reverse=True)
    assert sorts(there)[2] == "descending"
    there.click("table th:nth-child(2) button")
    names = column(there, 1)
    assert names == sorted(names)
    assert [s for s in sorts(there) if s != "none"] == ["ascending"]
    there.click("table th:nth-child(3) button")
    fragment = there.ask("location.hash")
    there.open(page, fragment)
    assert sorts(there)[2] == "ascending"
    assert sorted(column(there, 2)) == sorted(before)


def test_the_gallery_filters(there: chromium.Page, page: Path) -> None:
    images = data(there)["images"]
    hit, main_score = data(there)["hit"], data(there)["main"]
    ids = [p["id"] for p in images]
    assert cards(there) == ids
    chosen_class = images[0]["class"]
    choose(there, **{"class": chosen_class})
    assert cards(there) == [p["id"] for p in images if p["class"] == chosen_class]
    choose(there, **{"class": ""}, method="gradcam", show="hit")
    assert cards(there) == [p["id"] for p in images if method(p, "gradcam")["scores"][hit] == 0]
    choose(there, show="miss")
    assert cards(there) == [p["id"] for p in images if method(p, "gradcam")["scores"][hit] == 100]
    choose(there, show="wrong")
    assert cards(there) == [p["id"] for p in images if not p["networks"]["scenes_resnet"]["right"]]

    def lead(p: dict[str, Any]) -> float:
        return method(p, "eigencam")["scores"][main_score] - method(p, "gradcam")["scores"][main_score]

    choose(there, show="", method="eigencam", against="gradcam", order="wins")
    assert cards(there) == [p["id"] for p in sorted(images, key=lead, reverse=True)]
    choose(there, order="loses")
    assert cards(there) == [p["id"] for p in sorted(images, key=lead)]
    fragment, shown = there.ask("location.hash"), cards(there)
    assert fragment.startswith("#images?")
    there.open(page, fragment)
    assert cards(there) == shown
    choose(there, q="nothing is called so")
    assert cards(there) == []
    assert "No image of 12" in there.ask("document.getElementById('status').textContent")
    there.click("#filters button[type=reset]")
    assert cards(there) == ids
    assert "?" not in there.ask("location.hash")


def test_keys_walk_find_enlarge_and_leave(there: chromium.Page) -> None:
    focus = "[...document.querySelectorAll('.card')].indexOf(document.activeElement)"
    there.key("j")
    assert there.ask(focus) == 0
    there.key("j")
    there.key("ArrowRight")
    there.key("ArrowDown")
    assert there.ask(focus) == 3
    there.key("k")
    there.key("ArrowLeft")
    assert there.ask(focus) == 1
    there.key("Enter")
    assert there.ask("document.getElementById('large').open")
    assert there.ask("document.querySelector('#inside h3').textContent") == cards(there)[1]
    there.key("ArrowRight")
    assert there.ask("document.querySelector('#inside h3').textContent") == cards(there)[2]
    there.key("Escape")
    there.wait("!document.getElementById('large').open")
    there.wait(f"({focus}) === 2")
    there.key("/")
    assert there.ask("document.activeElement.name") == "q"
    assert there.ask("document.activeElement.value") == ""
    wanted = data(there)["images"][4]
    for letter in wanted["id"][-3:]:
        there.key(letter)
    assert wanted["id"] in cards(there)
    assert len(cards(there)) < 12
    there.key("Escape")
    assert there.ask(focus) == 0


def test_a_map_is_painted_as_the_evaluators_enlarge_it(there: chromium.Page) -> None:
    there.key("j")
    there.wait("[...document.querySelectorAll('.card canvas')].some(c => c.width !== 300)")
    alike = there.ask("""(() => {
        const c = document.querySelector('.card canvas'), [w, h] = c.what.cells;
        const raw = atob(c.what.map), d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
        const heat = JSON.parse(document.getElementById('data').textContent).heat;
        const hex = (x, y) => [0, 1, 2].map(i => d[4 * (y * c.width + x) + i].toString(16).padStart(2, '0')).join('');
        const of = v => heat[Math.round(v / 255 * (heat.length - 1))];
        return hex(0, 0) === of(raw.charCodeAt(0))
            && hex(c.width - 1, c.height - 1) === of(raw.charCodeAt(w * h - 1));
    })()""")
    assert alike


def test_light_and_dark(there: chromium.Page, page: Path) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    light = there.ask(paper)
    there.size(1200, 900, dark=True)
    dark = there.ask(paper)
    assert light == "rgb(255, 255, 255)"
    assert dark != light
    there.click("#theme")
    assert there.ask(paper) == light
    fragment = there.ask("location.hash")
    there.open(page, fragment)
    assert there.ask(paper) == light
    there.click("#theme")
    assert there.ask(paper) == dark


def test_lines_of_a_method_go_and_come_back(there: chromium.Page, page: Path) -> None:
    shown = "[...document.querySelectorAll('.plots g[data-m=random]')].filter(g => g.getClientRects().length).length"
    number = there.ask(shown)
    assert number > 0
    there.click(".chips button[data-method=random]")
    assert there.ask(shown) == 0
    there.open(page, there.ask("location.hash"))
    assert there.ask(shown) == 0
    there.click(".chips button[data-method=random]")
    assert there.ask(shown) == number


def test_contents_lead_there_and_keep_the_state(there: chromium.Page) -> None:
    there.click("table th:nth-child(3) button")
    there.ask("document.querySelector('.toc a[href=\"#table-2\"]').click()")
    there.wait("location.hash.startsWith('#table-2?')")
    assert "t1=2a" in there.ask("location.hash")
    assert sorts(there)[2] == "ascending"


def test_a_phone_needs_no_scrolling_sideways(there: chromium.Page, page: Path) -> None:
    there.size(360, 740, phone=True)
    there.open(page)
    assert there.ask("document.documentElement.scrollWidth <= innerWidth")
    there.ask("document.getElementById('images').scrollIntoView()")
    widths = there.ask("[...document.querySelectorAll('.card .tile')].map(t => t.getBoundingClientRect().right)")
    assert max(widths) <= 360


def test_the_overlay_s_opacity_is_a_slider(there: chromium.Page, page: Path) -> None:
    seen = "getComputedStyle(document.querySelector('.card canvas')).opacity"
    assert there.ask(seen) == "0.55"
    choose(there, opacity="20")
    assert there.ask(seen) == "0.2"
    there.open(page, there.ask("location.hash"))
    assert there.ask(seen) == "0.2"
    there.click("#filters button[type=reset]")
    assert there.ask(seen) == "0.55"


def test_an_image_has_an_address_and_two_methods_a_swipe(there: chromium.Page, page: Path) -> None:
    wanted = data(there)["images"][3]["id"]
    there.open(page, f"#images?at={wanted}&first=gradcam&second=eigencam")
    assert there.ask("document.getElementById('large').open")
    assert there.ask("document.querySelector('#inside h3').textContent") == wanted
    assert there.ask("document.querySelector('#pair [name=first]').value") == "gradcam"
    clip = "getComputedStyle(document.querySelector('#swipe .upper')).clipPath"
    assert "50%" in there.ask(clip)
    choose(there, cut="80")
    assert "80%" in there.ask(clip)
    pixels = """(() => { const c = document.querySelector('#difference canvas');
        const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let n = 0;
        for (let k = 3; k < d.length; k += 4) n += d[k] > 0; return n })()"""
    assert there.ask(pixels) > 100
    choose(there, second="gradcam")
    assert there.ask(pixels) == 0
    assert "second=gradcam" in there.ask("location.hash")
    there.key("Escape")
    there.wait("!location.hash.includes('at=')")


def test_a_phone_shows_whole_numbers_and_folds_intervals(there: chromium.Page, page: Path) -> None:
    there.size(390, 844, phone=True)
    there.open(page)
    right = "document.querySelector('td.n b').getBoundingClientRect().right"
    assert there.ask(right) <= 390
    folded = "[...document.querySelectorAll('td .ci')].filter(e => e.getClientRects().length).length"
    assert there.ask(folded) == 0
    there.click("#intervals")
    assert there.ask(folded) > 0
    assert there.ask("document.documentElement.scrollWidth <= innerWidth")
    method = "document.querySelector('tbody th:nth-child(2)').getBoundingClientRect().left"
    before = there.ask(method)
    there.ask("document.querySelector('.scroll').scrollLeft = 400")
    assert 0 <= there.ask(method) <= before


def test_baselines_are_told_apart(there: chromium.Page) -> None:
    base = there.ask("[...new Set([...document.querySelectorAll('tr.base')].map(r => r.cells[1].innerText))]")
    assert base == ["random"]
    assert "Baselines in italics" in there.ask("document.querySelector('main').innerText")


@pytest.mark.parametrize("dark", [False, True])
def test_an_automated_check_of_accessibility_finds_nothing(there: chromium.Page, page: Path, dark: bool) -> None:
    axe = pytest.importorskip("axe_core_python.base", reason="needs axe-core-python")
    there.size(1200, 900, dark=dark)
    there.open(page)
    there.ask((Path(axe.__file__).parent / "axe.min.js").read_text() + "; 1")
    found = there.ask("axe.run().then(r => r.violations.map(v => v.id + ': ' + v.nodes.slice(0, 3).map(n => n.html)))")
    assert found == []


def test_what_a_reader_by_ear_needs(there: chromium.Page) -> None:
    unnamed = there.ask("""[...document.querySelectorAll('button, select, input, a, dialog')].filter(e =>
        !(e.ariaLabel || e.textContent.trim() || e.labels?.length || e.title)).map(e => e.outerHTML)""")
    assert unnamed == []
    assert there.ask("document.documentElement.lang") == "en"
    levels = there.ask("[...document.querySelectorAll('h1, h2, h3')].map(h => +h.tagName[1])")
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
