"""What READMEs and pages point at is there, and an example's way to the loss stays short."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("unireason_jax", "configs", "launch", "tests", "notebooks")
LISTED = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True)
PAGES = [page for page in LISTED.stdout.split() if page != "CHANGELOG.md"] or ["README.md"]
# Folders of a page's words, where a name in backticks says that something lies in the repository.
CODE = re.compile(r"`((?:[\w.]+/)+[\w.]*(?:\.(?:py|sh|ipynb|toml))?)`")
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def is_there(page: Path, name: str) -> bool:
    places = [page.parent, ROOT, *(ROOT / room for room in ROOMS)]
    return any((place / name).exists() for place in places)


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_points_at_is_there(page):
    text = (ROOT / page).read_text()
    code = [n for n in CODE.findall(text) if n.endswith((".py", ".sh", ".ipynb", ".toml"))]
    named = [*LINK.findall(text), *code]
    lost = [name for name in named if not is_there(ROOT / page, name)]
    assert not lost, f"{page} points at what is not there: {', '.join(lost)}"


def test_the_way_of_an_example_has_at_most_twelve_stops_and_twenty_files():
    text = (ROOT / "README.md").read_text()
    rows = re.findall(r"^\| \d+ \|.*$", text, re.M)
    assert 1 <= len(rows) <= 12
    named = [name for row in rows for name in re.findall(r"`([\w/]+(?:\.py|/))`", row)]
    assert len(set(named)) <= 20
    lost = [name for name in named if not (ROOT / "unireason_jax" / name).exists()]
    assert not lost, f"README: no {', '.join(lost)}"


def test_the_map_names_every_room():
    text = (ROOT / "README.md").read_text()
    rooms = [path.parent.name for path in (ROOT / "unireason_jax").glob("*/__init__.py")]
    lost = [room for room in rooms if f"{room}/" not in text]
    assert not lost, f"README's map: no {', '.join(lost)}"
