"""The progress line: how far, how long, and the end told once."""

from unireason_jax.evals.progress import Progress


def test_the_end_is_told_once_and_not_before(capsys):
    progress = Progress("evaluate", 400, "images")
    for cost in (399.9, 0.1, 0, 5):
        progress(cost)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("evaluate 100 % of 400 images, 0:00 gone") and "left" not in line


def test_a_terminal_has_one_line_that_is_written_over(capsys):
    progress = Progress("draw", 400, "images")
    progress.terminal = True
    for cost in (399, 0, 1):
        progress.told = -1.0  # as if half a second had gone
        progress(cost)
    *before, last, rest = capsys.readouterr().err.replace("\n", "\r").split("\r")
    assert all(line.startswith("draw  99 %") and "left" in line for line in before)
    assert len(before) == 2 and last.startswith("draw 100 %") and len(last) == len(before[0])
    assert rest == ""


def test_nothing_is_foretold_from_the_part_that_compiles(capsys):
    progress = Progress("evaluate", 1400, "images", done=400)
    progress.started -= 60
    for cost in (1, 9):
        progress.told = -1000.0  # as if a while had gone
        progress(cost)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "evaluate  28 % of 1400 images, 1:00 gone"
    assert second == "evaluate  29 % of 1400 images, 1:00 gone, about 99:00 left"
