"""Notebooks run from top to bottom; their cells are plain Python, so no kernel is needed."""

import ast
import json

import pytest

from tests import untrained
from tests.conftest import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_compile")]


def run(path):
    """Runs the code cells in order; returns the value of each cell's last line."""
    names, values = {}, []
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] != "code":
            continue
        tree = ast.parse("".join(cell["source"]))
        last = ast.Expression(tree.body.pop().value)
        exec(compile(tree, str(path), "exec"), names)
        values.append(eval(compile(last, str(path), "eval"), names))
    return values


def test_the_world_in_five_lines(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIREASON_CHECKPOINT", str(untrained.write(tmp_path)))
    drawn, told, edited, answer, equal = run(REPOSITORY / "notebooks" / "five_lines.ipynb")
    assert drawn._repr_png_().startswith(b"\x89PNG") and drawn.roles[:3] == [
        "user",
        "plan",
        "draft",
    ]
    assert told[0][:2] == ("user", "a red circle above a blue square")
    assert edited.image.shape == drawn.image.shape and isinstance(answer, str)
    assert equal == (True, False)
