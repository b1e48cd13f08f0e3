"""The page "Your own data": every line of a format on it is a record, every message is said."""

import base64
import json
import re

import pytest

from tests.conftest import REPOSITORY
from tests.data import official_rows
from unireason_jax import new, prepare
from unireason_jax.data.image_sizes import SIZES
from unireason_jax.data.sources import ArrayRecordSource
from unireason_jax.data.templates import TEMPLATES
from unireason_jax.data.templates.official import FORMATS

PAGE = (REPOSITORY / "notebooks" / "your_own_data.md").read_text()
FORMS = dict(re.findall(r"^### `(\w+)`\n.*?```json\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL))
LINES = {form: text.splitlines() for form, text in FORMS.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The pictures that the lines name."""
    root = tmp_path_factory.mktemp("page")
    for number, name in enumerate(("cat", "dog")):
        (root / f"{name}.jpg").write_bytes(official_rows.png(90 + number))
    return root


def test_every_format_has_a_line_and_every_template():
    assert LINES.keys() == set(FORMATS) - {"auto"}
    tasks = [json.loads(line) for line in LINES["examples"]]
    thinking = {f"think_{row['task']}" for row in tasks if "think" in row}
    assert {row["task"] for row in tasks} | thinking >= TEMPLATES.keys()
    table = re.findall(r"^\| `(\w+)` \| .*\|", PAGE.split("## The folder")[1], re.MULTILINE)
    assert {*FORMATS, "world"} - {"auto"} <= set(table)


@pytest.mark.parametrize("form", FORMS)
def test_every_line_of_a_format_is_a_record(form, folder, capsys):
    picture = base64.b64encode((folder / "cat.jpg").read_bytes()).decode()
    lines = [line.replace("BASE64", picture) for line in LINES[form]]
    (folder / f"{form}.jsonl").write_text("\n".join(lines))
    for told in (form, "auto"):
        output = folder / f"{form}-{told}"
        command = [f"--input={folder / form}.jsonl", f"--output={output}", f"--format={told}"]
        prepare.main(["", *command, "--max_bad=0"])
        assert len(ArrayRecordSource(output)) == len(lines)
    assert f"of the format '{form}'" in capsys.readouterr().out


def test_the_rows_of_a_new_project_are_of_formats_on_the_page():
    fields = [json.loads(line).keys() for lines in LINES.values() for line in lines]
    assert all(row.keys() in fields for rows in new.ROWS.values() for row in rows)


def test_what_the_mistakes_say_is_said():
    table = PAGE.split("## What the usual mistakes say")[1]
    said = re.findall(r"^\| `(.*)` \| ", table, re.MULTILINE)
    code = "".join(path.read_text() for path in (REPOSITORY / "unireason_jax").rglob("*.py"))
    code = re.sub(r'"\n\s+f?"', "", code)
    assert len(said) > 8 and not [message for message in said if message not in code]


def test_the_sizes_and_flags_of_the_page_are_there(capsys):
    assert set(re.findall(r"`(bagel(?:_\d+)?)` \|", PAGE.split("## Sizes")[1])) <= SIZES.keys()
    prepare.main(["", "--help"])
    known = set(re.findall(r"--(?:\[no\])?(\w+)", capsys.readouterr().out))
    assert {"sizes", "tokenizer", "tokenizer_only", "images", "max_bad"} <= known
