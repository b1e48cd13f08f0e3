"""Shares joined by `--finish`: the records of one run, or one line that says what is missing."""

import re

from tests.synthesis import agents
from unireason_jax import synthesize
from unireason_jax.data.sources import JsonSource
from unireason_jax.storage import lock
from unireason_jax.synthesis import joining, running
from unireason_jax.synthesis.world_models import Errors

NAME = "reason_t2i"  # limits its domains, in a share more than in all together


def shares(config, out, total):
    """Makes every share of a folder, in an order of its own; near-duplicates within each."""
    folders = {n: joining.folder_of(out, n, total) for n in range(total, 0, -1)}
    return [
        alike(agents.run(config, folder, NAME, share=(n, total))) for n, folder in folders.items()
    ]


def alike(out):
    found = re.search(r"left out: near-duplicate picture \| (\d+)", (out / "report.md").read_text())
    return int(found[1]) if found else 0


def fates(out):
    """The report from its fates on, without who was called how often in this start."""
    text = (out / "report.md").read_text()
    return text.split("## Fates")[1].split("## Bill")[0], text.split("Paid: ")[1].split("![")[0]


def placed(record, out):
    """A record whose picture is its bytes, wherever it lies."""
    assert record["image"].startswith("share-") == (out.name != "whole")
    return {**record, "image": (out / record["image"]).read_bytes()}


def test_shares_are_joined_to_the_records_of_one_run(serve, tmp_path):
    server = serve(40, recipe=NAME, errors=Errors(draft=0.0))
    config = agents.write(tmp_path, server, NAME, top={"nearness": 0.03})
    whole = agents.run(config, tmp_path / "whole", NAME)
    wanted = [placed(record, whole) for record in agents.records(whole)]
    for total in (2, 3):
        out = tmp_path / f"of-{total}"
        within = shares(config, out, total)
        assert joining.finish(*running.prepared(NAME, config, (1, 1), 0), out) == out
        assert [placed(record, out) for record in agents.records(out)] == wanted
        assert sum(within) < alike(whole)  # some were alike in different shares
        assert fates(out) == fates(whole)
        assert (out / "examples.png").is_file()
        assert JsonSource(out / "records.jsonl")[0].licence == "CC0-1.0"


def test_what_cannot_be_joined_is_one_line(serve, tmp_path, capsys):
    server = serve(6, recipe=NAME)
    config = agents.write(tmp_path, server, NAME)

    out = tmp_path / "out"
    given = ("--recipe", NAME, "--config", config, "--out", out)
    assert "no shares are there" in agents.refused(capsys, *given, "--finish")
    assert "no --share, --limit" in agents.refused(capsys, *given, "--finish", "--share", "1/2")
    assert "--finish are for --recipe" in agents.refused(
        capsys, "--finish", "--checkpoint", "x", "--out", out
    )
    agents.run(config, joining.folder_of(out, 2, 2), NAME, share=(2, 2))
    assert "the shares 1/2 are missing" in agents.refused(capsys, *given, "--finish")
    agents.run(config, joining.folder_of(out, 1, 2), NAME, share=(1, 2))
    with lock.hold(joining.folder_of(out, 1, 2), "unireason synthesize"):
        assert "is in use by 'unireason synthesize'" in agents.refused(capsys, *given, "--finish")
    assert not (out / "records.jsonl").exists()
    text = config.read_text()
    config.write_text(text.replace("CC0-1.0", "CC-BY-4.0"))
    assert "share-1-of-2 was made with" in agents.refused(capsys, *given, "--finish")
    config.write_text(text)
    joining.folder_of(out, 3, 4).mkdir()
    assert "shares of 2 and of 4" in agents.refused(capsys, *given, "--finish")
    joining.folder_of(out, 3, 4).rmdir()
    synthesize.main([*map(str, given), "--finish"])
    assert agents.records(out)
