"""Notebooks run from top to bottom; their cells are plain Python, so no kernel is needed."""

import ast
import json

import pytest
from PIL import Image

from tests import untrained
from tests.conftest import REPOSITORY
from unireason_jax.inference.trace import Trace

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


@pytest.fixture(scope="module")
def model(tmp_path_factory, quick_compile):
    """A run that has learned nothing."""
    return untrained.write(tmp_path_factory.mktemp("untrained"))


@pytest.fixture
def notebook(tmp_path, monkeypatch, model):
    """Runs a notebook by its name, with an untrained model and as little work as shows it whole."""
    folder = REPOSITORY / "notebooks"
    monkeypatch.chdir(folder)
    settings = {"WORK": tmp_path / "work", "STEPS": 2, "COUNT": 3}
    for name, value in settings.items():
        monkeypatch.setenv(f"UNIREASON_{name}", str(value))
    monkeypatch.setenv("UNIREASON_CHECKPOINT", str(model))
    return lambda name: run(folder / f"{name}.ipynb")


def pictures(values):
    """The pictures among the values of cells."""
    return [value for value in values if isinstance(value, Image.Image | Trace)]


@pytest.mark.parametrize("path", sorted((REPOSITORY / "notebooks").glob("*.ipynb")), ids=str)
def test_a_notebook_is_short_has_no_outputs_and_one_cell_that_installs(path):
    cells = json.loads(path.read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    words = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    assert words[0].startswith("# ") and max(map(len, words)) < 600
    assert all(not cell["outputs"] for cell in cells if cell["cell_type"] == "code")
    assert [n for n, text in enumerate(code) if '"pip", "install"' in text] == [0]


def test_the_world_in_five_lines(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIREASON_CHECKPOINT", str(untrained.write(tmp_path)))
    installed, drawn, told, edited, answer, equal = run(
        REPOSITORY / "notebooks" / "five_lines.ipynb"
    )
    assert drawn._repr_png_().startswith(b"\x89PNG") and drawn.roles[:3] == [
        "user",
        "plan",
        "draft",
    ]
    assert told[0][:2] == ("user", "a red circle above a blue square")
    assert edited.image.shape == drawn.image.shape and isinstance(answer, str)
    assert equal == (True, False) and installed


def test_looking_inside_a_pack(notebook):
    _, records, lengths, row, alone = notebook("looking_inside_a_pack")
    assert len(pictures((records, row, alone))) == 3 and row.height > alone.height
    assert lengths["vqa"][2] == 0 < lengths["refine_t2i"][2]


def test_reflection_traces_by_hand(notebook):
    values = notebook("reflection_traces")
    lines, trace, left = values[2], *values[-2:]
    assert len(pictures(values)) == 4 and len(lines) == 2
    assert trace.roles[:4] == ["user", "plan", "draft", "reflection"] == left.roles[:4]


def test_synthesis(notebook, monkeypatch):
    monkeypatch.setenv("UNIREASON_CHECKPOINT", str(REPOSITORY / "notebooks" / "demo"))
    values = notebook("synthesis")
    assert len(pictures(values)) == 2 and sum(values[2].values()) >= 3


def test_scale_out_dry_run(notebook, capsys):
    values = notebook("scale_out")
    assert len(pictures(values)) == 2 and len(values[1]) == 8
    assert "model.frozen_dtype=nf4" in capsys.readouterr().out


def test_lora(notebook):
    values = notebook("lora")
    assert len(pictures(values)) == 4
    before, after = values[1], values[4]
    assert before.size == after.size and 0 < values[-1]["adapter, MiB"] < values[-1]["model, MiB"]


def test_own_data(notebook):
    values = notebook("own_data")
    assert len(pictures(values)) == 5
    _, photographs, _, decoded, *_ = values
    assert photographs.width == decoded.width
