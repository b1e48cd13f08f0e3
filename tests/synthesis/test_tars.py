"""Seeds in tar files of WebDataset: GenRef's, read where they lie."""

import io
import json
import tarfile

import pytest

from tests.synthesis import agents
from unireason_jax.synthesis import running, tars

NAME = "process_alignment"
FIELDS = 'fields = { good = "good_image", bad = "bad_image" }\n'


def pack(path, files, mode="w"):
    """A tar file of (name, content)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def sample(key, folder, row):
    """What GenRef has of a pair."""
    yield f"{key}.good_image.jpg", (folder / row["good"]).read_bytes()
    yield f"{key}.bad_image.jpg", (folder / row["bad"]).read_bytes()
    yield f"{key}.prompt.txt", f"{row['prompt']}\n".encode()
    yield f"{key}.reflection.txt", b"1. Add what is missing."
    yield f"{key}.subset.txt", b"rules"
    yield f"{key}.clip.npy", b"\x93NUMPY"


def configured(tmp_path, server, seeds):
    config = agents.write(tmp_path, server, NAME, top={"seeds": seeds})
    config.write_text(FIELDS + config.read_text())
    return config


def of(record):
    """A record without what depends on its id and its seeds' form."""
    return {k: v for k, v in record.items() if k not in ("id", "provenance")}


def test_genref_gives_the_records_that_its_unpacked_rows_give(serve, tmp_path):
    server = serve(12, recipe=NAME)
    rows = server.world.seeds(tmp_path)
    for number in (0, 1):
        half = [
            file
            for place, row in enumerate(rows[number::2])
            for file in sample(f"{place:06}", tmp_path, row)
        ]
        pack(tmp_path / "genref" / f"genref_{number}.tar", half)
    config = configured(tmp_path, server, "genref")
    _, _, seeds = running.prepared(NAME, config, (1, 1), 0)
    assert [seed.id for seed in seeds.items[:2]] == ["genref_0-000000", "genref_0-000001"]
    wanted = {row["prompt"]: row for row in rows}
    assert {seed.values["prompt"] for seed in seeds.items} == set(wanted)
    for seed in seeds.items:
        for side in ("good", "bad"):
            path = tmp_path / wanted[seed.values["prompt"]][side]
            assert tars.read(seed.values[side]) == path.read_bytes()
    found = agents.records(agents.run(config, tmp_path / "out", NAME))
    assert len(found) > 6
    for record in found:
        row, side = wanted[record["prompt"]], "bad" if "refine" in record else "good"
        assert (tmp_path / "out" / record["image"]).read_bytes() == (
            tmp_path / row[side]
        ).read_bytes()


def test_samples_of_other_layouts(tmp_path):
    files = [
        ("a/0.jpg", b"x"),
        ("a/0.json", json.dumps({"n": 1}).encode()),
        ("a/0.caption.v2.txt", "ein Bär".encode()),
        ("b/0.TXT", b"\xef\xbb\xbfother"),
        ("README", b"no sample"),
    ]
    first, second = tars.rows(pack(tmp_path / "one.tar", files))
    assert first["json"] == {"n": 1} and first["caption.v2"] == "ein Bär"
    assert tars.read(first["jpg"]) == b"x" and first["__key__"] == "a/0"
    assert second["TXT"] == "other" and second["id"] == "one-b/0"


def test_tars_that_cannot_be_used_are_one_line(serve, tmp_path):
    server = serve(2, recipe=NAME)
    rows = server.world.seeds(tmp_path)
    files = [*sample("000007", tmp_path, rows[0])]

    def refused(files, words, mode="w", cut=None):
        path = pack(tmp_path / "g.tar", files, mode)
        path.write_bytes(path.read_bytes()[:cut])
        config = configured(tmp_path, server, "g.tar")
        with pytest.raises(ValueError, match=words):
            running.prepared(NAME, config, (1, 1), 0)

    refused(files[:2], "g.tar, sample 000007: field 'prompt' is 'None'; give a text")
    refused(files[1:], "g.tar, sample 000007: field 'good_image' names no picture")
    refused([*files, files[0]], "g.tar, sample 000007: field 'good_image' is there twice")
    refused(
        [(files[2][0], b"\xff\xfe\xff")], "sample 000007: '000007.prompt.txt' is no txt in UTF-8"
    )
    refused(files, "g.tar: cannot be read as an uncompressed tar", mode="w:gz")
    refused(files, "g.tar: cannot be read as an uncompressed tar", cut=700)
    with pytest.raises(FileNotFoundError, match=r"none\.tar: no such tar file"):
        running.prepared(NAME, configured(tmp_path, server, "none.tar"), (1, 1), 0)
