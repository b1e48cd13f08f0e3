"""Every recipe against the world: what it keeps is right, and `prepare` reads it."""

import json

import pytest

from tests.synthesis import agents
from unireason_jax.data.sources import JsonSource
from unireason_jax.synthesis import graphs, programs, running
from unireason_jax.synthesis import recipe as recipes
from unireason_jax.synthesis.neighbours import Pictures, Texts
from unireason_jax.synthesis.world_models import Errors
from unireason_jax.world.language import parse_plan

ERRORS = Errors(draft=0.3, verify=0.1, edit=0.15, judge=0.05, seed=0.3)


def made(tmp_path, name, count=24, **options):
    """The world's server, the folder of a recipe's records, and the records."""
    server = agents.serve(count, faults=0.02, errors=ERRORS, recipe=name)
    try:
        config = agents.write(tmp_path, server, name, **options)
        out = agents.run(config, tmp_path / "out", name)
    finally:
        server.close()
    found = agents.records(out)
    assert found
    source = JsonSource(out / "records.jsonl")
    assert {source[n].source for n in range(len(source))} <= {
        record["task"]
        if "think" not in record or record["task"].startswith("irg_")
        else f"think_{record['task']}"
        for record in found
    }
    assert not [source[n].id for n in range(len(source)) if source[n].holes]  # for training
    for record in found:
        assert record["licence"] == "CC0-1.0" and record["provenance"]
    return server.world, out, found


def right(world, out, words, name, *shown):
    """Whether a picture is what its words ask for, of the example with these pictures."""
    pictures = [agents.picture(out, each) for each in (*shown, name)]
    return world.is_right(world.truth(words, pictures), pictures[-1])


def test_reason_t2i(tmp_path):
    world, out, found = made(tmp_path, "reason_t2i", 40)
    for record in found:
        assert right(world, out, record["prompt"], record["image"])
        assert record["think"] == world.truth(record["prompt"])["think"] and record["domain"]


def test_reason_edit(tmp_path):
    world, out, found = made(tmp_path, "reason_edit")
    for record in found:
        source, target = record["input_image"], record["output_image"]
        assert right(world, out, record["instruction"], target, source)
    assert len(found) < 24  # rows with their pictures swapped are gone


def test_refine_edit(tmp_path):
    world, out, found = made(tmp_path, "refine_edit")
    for record in found:
        last = record["rounds"][-1]["image"] if record["rounds"] else record["draft"]
        assert right(world, out, record["instruction"], last, record["input_image"])


def test_irg(tmp_path):
    world, out, found = made(tmp_path, "irg")
    assert len({record["task"] for record in found}) == 6
    for record in found:
        if record["task"] == "irg_improving_full":
            assert right(world, out, record["prompt"], record["improved"], record["image"])
            assert "### Step-by-Step Modification Guidance" in record["improve"]


def test_process_alignment(tmp_path):
    world, out, found = made(tmp_path, "process_alignment", 40)
    wrong = [record for record in found if "refine" in record]
    assert wrong and len(wrong) > len(found) / 2
    for record in found:
        good = record.get("refined", record["image"])
        shown = [record["image"]] if "refine" in record else []
        assert right(world, out, record["prompt"], good, *shown)


def test_process_conflict(tmp_path):
    world, out, found = made(tmp_path, "process_conflict", 40)
    for record in found:
        last = record["steps"][-1]
        picture = agents.picture(out, last["refined" if "refine" in last else "image"])
        target = parse_plan(last["des"], agents.SIDE).objects
        assert sorted(world.objects(picture)) == sorted(target)
    assert any("refine" in record["steps"][-1] for record in found)


def test_process(tmp_path):
    world, out, found = made(tmp_path, "process", 40)
    for record in found:
        assert 2 <= len(record["steps"]) <= 5
        assert right(world, out, record["prompt"], record["steps"][-1]["image"])
        for step in record["steps"]:
            seen = world.objects(agents.picture(out, step["image"]))
            assert sorted(seen) == sorted(parse_plan(step["des"], agents.SIDE).objects)


def test_uni_edit(tmp_path):
    world, out, found = made(tmp_path, "uni_edit")
    for record in found:
        assert record["answer"] not in record["instruction"].split()
        raw = world.truth(record["question"], [agents.picture(out, record["image"])])
        assert world.is_right(raw, agents.picture(out, record["output_image"]))


def test_reflect(tmp_path):
    world, out, found = made(tmp_path, "reflect")
    for record in found:
        last = record["rounds"][-1]["image"] if record["rounds"] else record["draft"]
        assert right(world, out, record["prompt"], last)
        assert "[ACTION] done" in record["final_reflection"]


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_has_a_card_that_says_what_is_whose(name):
    card = (recipes.folder_of(name) / "CARD.md").read_text()
    assert "From " in card and "Ours" in card and "Half a million seeds" in " ".join(card.split())
    assert recipes.load(recipes.folder_of(name)).name == name


CIRCLE = {
    "objects": [{"name": "cat"}, {"name": "mat"}],
    "relations": [
        {"subject": "cat", "relation": "on", "object": "mat"},
        {"subject": "mat", "relation": "under", "object": "cat"},
    ],
}


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (CIRCLE, "in a circle through 'cat', 'mat'"),
        ({"objects": []}, "no objects"),
        ({"objects": [{"name": "a"}, {"name": "a"}]}, "'a' twice"),
        ({"objects": [{"name": "a"}], "relations": [{"subject": "a", "object": "b"}]}, "'b'"),
        ([], "a list 'objects'"),
        ({"objects": [7]}, "object 1"),
    ],
)
def test_a_graph_that_cannot_grow_is_refused_before_anybody_is_paid(tmp_path, graph, words):
    server = agents.serve(1, recipe="process")
    rows = [{"prompt": "a cat on a mat", "scene_graph": graph}]
    config = agents.write(tmp_path, server, "process", rows)
    server.close()
    with pytest.raises(ValueError, match=rf"row 1: field 'scene_graph': .*{words}"):
        agents.run(config, tmp_path / "out", "process")


def test_a_graph_of_visual_genome_grows_from_what_places_the_rest():
    graph = {
        "objects": [
            {"object_id": 1, "names": ["cup"], "attributes": ["red"]},
            {"object_id": 2, "names": ["table"]},
            {"object_id": 3, "names": ["room"]},
        ],
        "relationships": [
            {"subject_id": 1, "predicate": "on", "object_id": 2},
            {"subject_id": 2, "predicate": "in", "object_id": 3},
        ],
    }
    assert [state["new"] for state in programs.grow(graph)] == [
        "room",
        "table; table in room",
        "red cup; red cup on table",
    ]
    many = {"objects": [{"name": f"thing {n}"} for n in range(12)]}
    states = graphs.growing(graphs.checked(many), 5)
    assert len(states) == 4 and states[-1]["scene"].count("thing") == 12


def test_an_answer_in_the_instruction_is_found_as_words_only():
    assert programs.no_leak("paint the one that is larger", "large")
    with pytest.raises(programs.Rejected):
        programs.no_leak("Paint the Large one!", "large")


def test_near_duplicates():
    texts = Texts(["The quick brown fox jumps over the lazy dog near the old river bank today."])
    assert texts.seen("the quick brown fox jumps over the lazy dog near the old river bank, today")
    assert not texts.seen("a red circle left of a blue square")
    assert not texts.seen("a red circle right of a blue square")
    pictures = Pictures(0.01)
    assert not pictures.seen(2**700) and pictures.seen(2**700 + 5) and not pictures.seen(2**40 - 1)


def test_a_seed_whose_picture_cannot_be_read_is_dropped_alone(tmp_path):
    server = agents.serve(6, errors=Errors(draft=0.0), recipe="uni_edit")
    try:
        config = agents.write(tmp_path, server, "uni_edit")
        (tmp_path / "seeds" / "2_image.png").write_bytes(b"\x89PNG\r\n\x1a\n no more")
        out = agents.run(config, tmp_path / "out", "uni_edit")
    finally:
        server.close()
    assert len(agents.records(out)) == 5 or "near-duplicate" in (out / "report.md").read_text()
    assert (
        "| dropped at `seeds`: a picture that cannot be read | 1 |"
        in (out / "report.md").read_text()
    )


def test_a_disk_that_is_full_is_one_line(tmp_path, monkeypatch):
    server = agents.serve(6)
    config = agents.write(tmp_path, server)

    def full(self, rows):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("unireason_jax.storage.indexed.IndexedJournal.add", full)
    try:
        with pytest.raises(OSError, match="No space left"):
            agents.run(config, tmp_path / "out")
    finally:
        server.close()


def test_layouts_of_questions_are_read(tmp_path):
    server = agents.serve(3, recipe="uni_edit")
    server.close()
    rows = server.world.seeds(tmp_path)
    talk = [
        {
            "id": row["id"],
            "image": row["image"],
            "conversations": [
                {"from": "human", "value": f"<image>\n{row['question']}"},
                {"from": "gpt", "value": row["answer"]},
            ],
        }
        for row in rows
    ]
    told = [(row["image"], row["question"], row["answer"]) for row in rows]
    config = agents.write(tmp_path, server, "uni_edit", talk)
    _, _, seeds = running.prepared("uni_edit", config, (1, 1), 0)
    read = [
        tuple(seed.values[key] for key in ("image", "question", "answer")) for seed in seeds.items
    ]
    assert read == [(str(tmp_path / image), *rest) for image, *rest in told]
    questions = [
        {"question_id": n, "image_id": n, "question": row["question"]} for n, row in enumerate(rows)
    ]
    answers = [
        {"question_id": n, "multiple_choice_answer": row["answer"]} for n, row in enumerate(rows)
    ]
    (tmp_path / "q.json").write_text(json.dumps({"questions": questions}))
    (tmp_path / "a.json").write_text(json.dumps({"annotations": answers}))
    top = {"seeds": "q.json", "answers": "a.json", "picture": "seeds/{image_id}_image.png"}
    config = agents.write(tmp_path, server, "uni_edit", rows, top=top)
    _, _, seeds = running.prepared("uni_edit", config, (1, 1), 0)
    assert [seed.values["answer"] for seed in seeds.items] == [row["answer"] for row in rows]
    top["picture"] = "{imageid}.png"
    config = agents.write(tmp_path, server, "uni_edit", rows, top=top)
    with pytest.raises(ValueError, match="does not fit question 1"):
        running.prepared("uni_edit", config, (1, 1), 0)
    (tmp_path / "a.json").write_text(json.dumps({"annotations": answers[1:]}))
    with pytest.raises(ValueError, match="no answer to question 0"):
        running.prepared("uni_edit", config, (1, 1), 0)
