"""The page as a person uses it, in a real browser, with a canned model behind the server."""

import json
import time

import pytest
from PIL import Image

from tests.server import browser, canned
from unireason_jax.server import process

SIZES = {"wide": (1280, 800), "tablet": (820, 1100), "phone": (390, 844)}
STEPS = """[...document.querySelectorAll('.run')].map(
  run => [...run.querySelectorAll('.step')].map(step => step.dataset.role))"""
# Notes what is on the page only while it is made: growing words, the share that is drawn.
WATCH = """globalThis.seen = {words: [], share: 0}; new MutationObserver(() => {
  const now = document.querySelector('.step.now');
  if (now?.querySelector('p')) seen.words.push(now.querySelector('p').textContent);
  if (now?.querySelector('progress')) seen.share = now.querySelector('progress').value;
}).observe(document.getElementById('runs'), {childList: true, subtree: true, attributes: true});
1"""
DONE = "document.querySelectorAll('.run .save').length"


@pytest.fixture(scope="module")
def server():
    live = canned.Live(4, pause=0.02)
    with process.running(canned.reasoner(), live=live, rows=4) as found:
        yield found[0]


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    program = browser.find()
    if not program:
        pytest.skip("no browser: install Debian's chromium, or name one in BROWSER_FOR_TESTS")
    with browser.opened(program, tmp_path_factory.mktemp("browser")) as page:
        yield page


@pytest.fixture
def page(tab, server):
    tab.size(*SIZES["wide"])
    tab.faults.clear()
    tab.open(server)
    tab.wait("document.querySelectorAll('#model option').length > 3")
    tab.run("document.getElementById('prompt').value = 'a red circle'")
    yield tab
    assert not tab.faults


def click(page, selector):
    page.run(f"document.querySelector({selector!r}).click()")


def test_steps_appear_one_after_another(page):
    page.run(WATCH)
    click(page, "#go")
    page.wait(f"{DONE} === 1")
    assert page.run("seen.words.length") > 4 and page.run("seen.share") == 0.5
    assert page.run("seen.words.every((text, n) => !n || text !== seen.words[n - 1])")
    assert page.run(STEPS) == [["plan", "draft", "reflection", "refined"]]
    said = page.run("document.querySelector('.step[data-role=reflection] p').textContent")
    assert said == canned.REFLECTION
    assert page.run("document.querySelector('.about').textContent.includes('the model stopped')")
    assert page.run("document.getElementById('stop').disabled")


def test_two_presets_and_two_seeds_stand_side_by_side(page):
    for done, other, line in ((2, "unireason:think", "unireason:think"), (4, "seed", "seed 1")):
        page.run(f"document.getElementById('other').value = {other!r}")
        click(page, "#go")
        page.wait(f"{DONE} === {done}")
        told = page.run("document.querySelector('.side .run:nth-child(2) .about').textContent")
        assert line in told
    tops = "[...document.querySelectorAll('.side:first-child .run')].map(r => r.offsetTop)"
    assert len(set(page.run(tops))) == 1
    images = "[...document.querySelectorAll('.side:first-child .step[data-role=draft] img')]"
    assert page.run(f"new Set({images}.map(image => image.src)).size") == 2


def test_a_reflection_is_edited_and_drawn_from_again(page):
    click(page, "#go")
    page.wait(f"{DONE} === 1")
    click(page, ".edit")
    page.run("document.querySelector('.step textarea').value = 'a blue square'")
    click(page, ".redraw")
    page.wait(f"{DONE} === 2")
    old, new = page.run(STEPS)
    assert old == new == ["plan", "draft", "reflection", "refined"]
    said = "[...document.querySelectorAll('.step[data-role=reflection] p')].map(p => p.textContent)"
    assert page.run(said) == [canned.REFLECTION, "a blue square"]
    drawn = "[...document.querySelectorAll('.step[data-role=refined] img')].map(i => i.src)"
    assert len(set(page.run(drawn))) == 2


def test_a_trace_is_saved_and_opened_again(page, server, tmp_path):
    page.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    click(page, "#go")
    page.wait(f"{DONE} === 1")
    before = page.run("document.querySelector('.steps').innerHTML")
    click(page, ".save")
    end = time.monotonic() + 20
    while not (tmp_path / "trace.json").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    saved = json.loads((tmp_path / "trace.json").read_text())
    assert [step["role"] for step in saved["steps"]] == page.run(STEPS)[0]
    page.open("about:blank")
    page.open(server)
    page.files("#open", tmp_path / "trace.json")
    page.wait(f"{DONE} === 1")
    assert page.run("document.querySelector('.steps').innerHTML") == before


def test_what_is_wrong_is_said_on_the_page(page, tmp_path):
    page.run("document.getElementById('prompt').value = 'a zebra'")
    click(page, "#go")
    page.wait("document.querySelector('.run .error')?.textContent.includes('zebra')")
    page.faults.clear()  # the browser logs the status 400 itself
    (tmp_path / "other.json").write_text('{"steps": []}')
    page.files("#open", tmp_path / "other.json")
    page.wait("document.getElementById('error').textContent.includes('not a trace')")


@pytest.mark.parametrize("name", SIZES)
def test_it_fits_the_window(page, name, tmp_path):
    page.size(*SIZES[name])
    click(page, "#go")
    page.wait(f"{DONE} === 1")
    width, height = SIZES[name]
    assert page.run("document.documentElement.scrollWidth") <= width
    small = "[...document.querySelectorAll('button')].filter(b => b.offsetHeight < 24).length"
    assert page.run(small) == 0
    (tmp_path / "page.png").write_bytes(page.picture())
    with Image.open(tmp_path / "page.png") as shot:
        assert shot.size == (width, height) and len(shot.convert("RGB").getcolors(1 << 20)) > 20
