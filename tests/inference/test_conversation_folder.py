"""Folders of conversations: memory, damaged ones, settings, names."""

import dataclasses
import hashlib
import json
import weakref

import numpy as np
import pytest
from PIL import Image

from unireason_jax.data.templates import TEMPLATES
from unireason_jax.inference import trace as traces
from unireason_jax.inference.conversation import Request
from unireason_jax.inference.conversation_folder import Folder, fingerprint
from unireason_jax.inference.settings import FlowSettings, Settings
from unireason_jax.inference.trace import Step, Trace

SETTINGS = Settings()


def request(name, **options):
    return Request(TEMPLATES["t2i"]({"id": name, "prompt": name}), **options)


class Writer:
    """Stands in for a reasoner; counts the pictures that somebody still holds."""

    def __init__(self):
        self.alive, self.most, self.made = 0, 0, []

    def _gone(self):
        self.alive -= 1

    def stream(self, jobs, settings):
        for number, (one, sample) in enumerate(jobs):
            picture = np.full((8, 8, 3), number % 256, np.uint8)
            self.alive += 1
            self.most = max(self.most, self.alive)
            weakref.finalize(picture, self._gone)
            self.made.append(one.record.id)
            steps = (Step("text", "user", text=one.record.id, given=True),)
            steps += (Step("image", "image", image=picture),)
            del picture
            yield number, Trace(one.record.id, "t2i", steps, sample)
            del steps


def jobs(*names):
    return [(request(name), 0) for name in names]


def test_memory_does_not_grow_with_the_number_of_conversations(tmp_path, capsys):
    writer, few = Writer(), dataclasses.replace(SETTINGS, batch_rows=3)
    places = Folder(tmp_path, {}, few).generate(writer, jobs(*map(str, range(40))), few)
    assert len(places) == 40 and all((place / traces.FILE).exists() for place in places)
    assert writer.most <= 3 + 3 and writer.alive == 0  # a batch waits, one is saved, one is made
    again = Writer()
    Folder(tmp_path, {}, SETTINGS).generate(again, jobs(*map(str, range(40))), SETTINGS)
    assert not again.made and "40 of 40 conversations are there" in capsys.readouterr().out


@pytest.mark.parametrize(
    "spoil",
    [
        lambda place: (place / traces.FILE).write_text('{"steps": ['),
        lambda place: (place / traces.FILE).write_text("[" * 100_000),
        lambda place: (place / traces.FILE).write_text("[]"),
        lambda place: (place / traces.FILE).write_bytes(b"\xff\xfe"),
        lambda place: (place / traces.FILE).write_text(""),
        lambda place: change(place, details=[]),
        lambda place: change(place, steps=[{"kind": "image", "role": "image"}]),
        lambda place: change(place, steps={"kind": 3}),
        lambda place: change(place, colour=1),
        lambda place: change(
            place, steps=[{"kind": "image", "role": "x", "image": "../01_image.png"}]
        ),
        lambda place: change(place, ended=["end"]),
        lambda place: change(place, steps=[{"kind": "text", "role": "../x", "text": "a"}]),
        lambda place: change(place, steps=[{"kind": "text", "role": "plan", "text": "\ud800"}]),
        lambda place: change(place, seconds={"draw": "long"}),
        lambda place: (place / "01_image.png").unlink(),
    ],
)
def test_a_damaged_conversation_is_generated_again_alone(tmp_path, capsys, spoil):
    folder = Folder(tmp_path, {}, SETTINGS)
    places = folder.generate(Writer(), jobs("a", "b"), SETTINGS)
    spoil(places[0])
    with pytest.raises((ValueError, FileNotFoundError)) as told:
        traces.load(places[0])
    assert str(places[0]) in str(told.value) and "\n" not in str(told.value)
    writer = Writer()
    assert folder.generate(writer, jobs("a", "b"), SETTINGS) == places
    assert writer.made == ["a"] and "1 of 2 are damaged: generated again" in capsys.readouterr().out
    assert traces.load(places[0]).id == "a"


def change(place, **values):
    """Replaces fields of a saved trace."""
    file = place / traces.FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_a_damaged_picture_is_named(tmp_path):
    (place,) = Folder(tmp_path, {}, SETTINGS).generate(Writer(), jobs("a"), SETTINGS)
    (place / "01_image.png").write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"01_image\.png"):
        traces.load(place)


def test_folders_have_64_bits_of_their_id_and_those_of_before_are_found(tmp_path):
    folder = Folder(tmp_path, {}, SETTINGS)
    (place,) = folder.generate(Writer(), jobs("图 a/b"), SETTINGS)
    slug, digest, sample = place.name.rsplit("-", 2)
    assert slug.isascii() and len(digest) == 16 and sample == "0"
    place.rename(tmp_path / f"{slug}-{short('图 a/b')}-0")
    writer = Writer()
    folder.generate(writer, jobs("图 a/b"), SETTINGS)
    assert not writer.made
    change(folder.of("图 a/b", 0), id="another of the same digest")
    assert folder.of("图 a/b", 0) == place


def short(name):
    return hashlib.blake2b(name.encode(), digest_size=4).hexdigest()


def test_what_was_asked_is_told_apart_by_words_pixels_and_seed(tmp_path):
    assert fingerprint(request("a")) == fingerprint(request("a", upright=True))
    assert len({fingerprint(request("a", seed=seed)) for seed in (0, 1, 2)}) == 3
    picture = Image.new("RGB", (8, 4), (1, 2, 3))
    picture.putpixel((0, 0), (200, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.png", exif=exif)
    example = {"id": "a", "question": "?", "image": tmp_path / "a.png"}
    record = TEMPLATES["vqa"](example)
    assert fingerprint(Request(record)) != fingerprint(Request(record, upright=True))


def test_a_folder_belongs_to_settings_and_says_which_differ(tmp_path):
    drawn = dataclasses.replace(SETTINGS, flow=FlowSettings(timesteps=7))
    Folder(tmp_path, {"checkpoint": "x"}, drawn)
    file = tmp_path / "settings.json"
    values = json.loads(file.read_text())
    del values["settings"]["edit_size"], values["settings"]["flow"]["renorm_min"]
    file.write_text(json.dumps(values))  # as before these settings came
    Folder(tmp_path, {"checkpoint": "x"}, dataclasses.replace(drawn, batch_rows=3))
    for identity, settings, told in (
        ({"checkpoint": "y"}, drawn, "checkpoint was x"),
        ({"checkpoint": "x"}, SETTINGS, "flow.timesteps was 7"),
        ({"checkpoint": "x"}, dataclasses.replace(drawn, edit_size=(8, 8)), "edit_size was None"),
        ({"checkpoint": "x"}, dataclasses.replace(drawn, refine=FlowSettings()), "refine was None"),
        ({"checkpoint": "x", "seed": 3}, drawn, "seed was None"),
    ):
        with pytest.raises(ValueError, match=told):
            Folder(tmp_path, identity, settings)
    (tmp_path / "f").write_text("")
    with pytest.raises(ValueError, match="is a file; choose a folder"):
        Folder(tmp_path / "f", {}, SETTINGS)
    file.write_text("{")
    with pytest.raises(ValueError, match="it cannot be read"):
        Folder(tmp_path, {}, SETTINGS)


def test_exact_is_part_of_a_folder_only_where_it_is_on(tmp_path):
    Folder(tmp_path / "old", {}, SETTINGS)
    told = json.loads((tmp_path / "old" / "settings.json").read_text())["settings"]
    assert not {"exact", "batch_rows"} & set(told)  # as in folders from before it existed
    Folder(tmp_path / "old", {}, dataclasses.replace(SETTINGS, batch_rows=2))
    exact = dataclasses.replace(SETTINGS, exact=True)
    with pytest.raises(ValueError, match="exact"):
        Folder(tmp_path / "old", {}, exact)
    Folder(tmp_path / "exact", {}, exact)
    with pytest.raises(ValueError, match="exact"):
        Folder(tmp_path / "exact", {}, SETTINGS)
    with pytest.raises(ValueError, match="exact must be True or False"):
        dataclasses.replace(SETTINGS, exact="yes")
