"""Files as people have them: empty, of another kind or encoding, with keys where none belong."""

import itertools
import json

import pytest

from tests.synthesis import agents
from unireason_jax.endpoints.settings import Endpoint, faults
from unireason_jax.synthesis import graphs, running

LATIN = "un café noir\n".encode("latin-1")


@pytest.fixture(scope="module")
def servers():
    found = {name: agents.serve(6, recipe=name) for name in ("refine_t2i", "process")}
    yield found
    for server in found.values():
        server.close()


def dry(capsys, servers, folder, *, recipe="refine_t2i", mine=None, **options):
    """The line that a dry run of a folder ends with; nobody is paid."""
    config = agents.write(folder, servers[recipe], recipe, **options)
    flags = ("--config", config, "--out", folder / "out", "--dry_run")
    said = agents.refused(capsys, "--recipe", mine or recipe, *flags)
    assert not servers[recipe].calls
    return said


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("s.txt", b"", "s.txt: no seeds"),
        ("s.txt", LATIN, "s.txt: not UTF-8 at byte 6"),
        ("s.txt", b'{"prompt": "a cat"}\n', "s.txt: the first line is JSON"),
        ("s.jsonl", b"\n \n", "s.jsonl: give a list of objects"),
        ("s.jsonl", b"prompt,domain\na cat,x\n", "s.jsonl, line 1: not JSON"),
        ("s.jsonl", b'{"prompt": "a cat"}\n{"prompt": \n', "s.jsonl, line 2: not JSON"),
        ("s.jsonl", b'{"prompt": "a cat"}\n[1]\n', "s.jsonl, row 2: '[1]' is no JSON object"),
        ("s.jsonl", b'{"prompt": "' + LATIN.strip() + b'"}', "s.jsonl: not UTF-8"),
        ("s.jsonl", '{"prompt": "a"}'.encode("utf-16"), "s.jsonl: not UTF-8"),
        ("s.jsonl", b'{"prompt": "a \\ud800 cat"}', "row 1: 'prompt' has half a character"),
        ("s.jsonl", b"[" * 100_000, "s.jsonl, line 1: not JSON (nested too deep)"),
        ("s.jsonl", b'{"prompt": "a", "id": ' + b"9" * 5000 + b"}", "s.jsonl, line 1: not JSON"),
        ("s.csv", b"prompt\na cat\n", "s.csv: not JSON"),
    ],
)
def test_seeds_of_another_kind(servers, tmp_path, capsys, name, content, words):
    (tmp_path / name).write_bytes(content)
    assert words in dry(capsys, servers, tmp_path, top={"seeds": name})


def test_texts_of_other_editors_are_read(servers, tmp_path):
    config = agents.write(tmp_path, servers["refine_t2i"], top={"seeds": "s.txt"})
    config.write_bytes(b"\xef\xbb\xbf" + config.read_bytes())  # a byte-order mark
    (tmp_path / "s.txt").write_bytes("\ufeffa cat\r\na dog\u2028by night\r\n".encode())
    _, _, seeds = running.prepared("refine_t2i", config, (1, 1), 0)
    assert [seed.values["prompt"] for seed in seeds.items] == ["a cat", "a dog\u2028by night"]
    row = json.dumps({"prompt": "a dog\u2028by night"}, ensure_ascii=False)
    (tmp_path / "s.jsonl").write_text(row)
    config = agents.write(tmp_path, servers["refine_t2i"], top={"seeds": "s.jsonl"})
    assert len(running.prepared("refine_t2i", config, (1, 1), 0)[2].items) == 1


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("b.txt", LATIN, "b.txt: not UTF-8"),
        ("b.json", b"", "b.json: not JSON"),
        ("b.json", b'[{"prompt": "cat"}]', "b.json: no prompts of a benchmark"),
        ("folder/note.md", b"nothing of use here", "folder: no prompts of a benchmark"),
    ],
)
def test_a_benchmark_that_would_check_nothing(servers, tmp_path, capsys, name, content, words):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(content)
    top = {"benchmarks": [name.partition("/")[0]]}
    assert words in dry(capsys, servers, tmp_path, top=top)


def test_a_folder_of_texts_is_a_benchmark(servers, tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_text("the moon over Paris\n")
    rows = [{"prompt": "The moon, over Paris!"}]
    said = dry(capsys, servers, tmp_path, rows=rows, top={"benchmarks": ["folder"]})
    assert "no seed is left (prompt of a benchmark (1))" in said


SECRET = "sk-live-0123456789"


@pytest.mark.parametrize(
    "url",
    [
        f"http://host/v1?key={SECRET}",
        f"http://{SECRET}@host/v1",
        f"http://host/v1#{SECRET}",
        f"http://host/v1;key={SECRET}",
        f"http://host/{SECRET}/v1",
        f"http://host:{SECRET}/v1",
        "http://host:99999/v1",
        "http://ho st/v1",
        f"http://{'a' * 70}.com/v1",
        "http://[::1/v1",
        "http://host/v1/chat/completions",
        "host/v1",
    ],
)
def test_an_address_that_is_none_or_holds_a_key(servers, tmp_path, capsys, url):
    said = dry(capsys, servers, tmp_path, url=url)
    assert "roles.planner.endpoints.0.url: " in said and SECRET not in said
    assert said.count("endpoints.0.url") == 3 and "and 2 more" in said  # of five alike


def test_a_key_elsewhere_is_not_shown(servers, tmp_path, capsys):
    with pytest.raises(ValueError, match="'api_key' is no field for a key") as error:
        Endpoint(url="http://host/v1", extra={"api_key": SECRET})
    assert SECRET not in faults(error.value)
    said = dry(capsys, servers, tmp_path, key="gsk_0123456789abcdef")
    assert "is not set" in said and "gsk_" not in said


@pytest.mark.parametrize(
    ("top", "words"),
    [
        ({"size": [0, 0]}, "size.0"),
        ({"size": [32, 1 << 30]}, "size.1"),
        ({"licence": "  "}, "licence"),
        ({"licence": "a\nb"}, "licence"),
    ],
)
def test_values_that_no_picture_or_record_can_have(servers, tmp_path, capsys, top, words):
    assert words in dry(capsys, servers, tmp_path, top=top)


def test_a_folder_whose_name_is_too_long(servers, tmp_path, capsys):
    config = agents.write(tmp_path, servers["refine_t2i"])
    flags = ("--recipe", "refine_t2i", "--config", config, "--dry_run")
    said = agents.refused(capsys, *flags, "--out", tmp_path / ("x" * 300))
    assert "--out" in said and "nothing can be written there (File name too long)" in said


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("records.jsonl", "'records.jsonl' is a folder there"),
        ("report.md", "'report.md' is a folder there"),
        ("examples.png", "'examples.png' is a folder there"),
        ("calls.jsonl", "'calls.jsonl' is a folder there"),
        ("pictures", "'pictures' is no folder there"),
    ],
)
def test_a_folder_that_has_something_else_by_a_name_of_the_run(
    servers, tmp_path, capsys, name, words
):
    (tmp_path / "out").mkdir()
    if name == "pictures":
        (tmp_path / "out" / name).write_text("x")
    else:
        (tmp_path / "out" / name).mkdir()
    assert words in dry(capsys, servers, tmp_path)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--checkpoint", "run", "--dry_run"], "--dry_run is for --recipe"),
        (["--checkpoint", "run", "--config", "agents.toml"], "--config is for --recipe"),
        (["--recipe", "refine_t2i", "--checkpoint", "run"], "takes no --checkpoint"),
    ],
)
def test_flags_of_one_way_are_not_passed_over_in_the_other(tmp_path, capsys, flags, words):
    # a dry run that is none would draw for hours
    assert words in agents.refused(capsys, *flags, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_journal_is_left_as_it_is(servers, tmp_path):
    config = agents.write(tmp_path, servers["refine_t2i"])
    (tmp_path / "out").mkdir()
    file = tmp_path / "out" / "calls.jsonl"
    file.write_bytes(b'{"mine": 1}')  # without an end of line, as a crash could leave a journal
    with pytest.raises(ValueError, match=r"calls\.jsonl: not a journal"):
        agents.run(config, tmp_path / "out")
    assert file.read_bytes() == b'{"mine": 1}' and not servers["refine_t2i"].calls


def test_a_picture_whose_name_is_too_long(tmp_path, capsys):
    servers = {"uni_edit": agents.serve(1, recipe="uni_edit")}
    try:
        rows = [{"image": "a" * 5000, "question": "what is it", "answer": "a cat"}]
        said = dry(capsys, servers, tmp_path, recipe="uni_edit", rows=rows)
    finally:
        servers["uni_edit"].close()
    assert "row 1: field 'image' names no picture" in said and len(said) < 1000


@pytest.mark.parametrize(
    ("recipe", "file", "old", "new", "words"),
    [
        ("refine_t2i", "plan.txt", None, LATIN, "plan.txt: not UTF-8"),
        ("refine_t2i", "recipe.toml", b"name", b"# \xff\nname", "recipe.toml: not UTF-8"),
        ("refine_t2i", "plan.txt", None, b"{prompt.x}", "'prompt' has no fields"),
        ("refine_t2i", "recipe.toml", b'"1..5"', b'"5..1"', "'verify.object_presence' is '5..1'"),
        ("process", "recipe.toml", b'["graph"]', b"[]", "the program takes 1 (graph)"),
        ("process", "recipe.toml", b'["graph"]', b'["graph", "id"]', "takes 1 (graph)"),
        ("process", "recipe.toml", b'["graph"]', b'["prompt"]', "cannot be the program's 'graph'"),
        ("process", "recipe.toml", b'["id"]', b'["graph"]', "cannot be the program's 'name'"),
    ],
)
def test_a_copy_that_would_fail_after_it_was_paid(
    servers, tmp_path, capsys, recipe, file, old, new, words
):
    running.copy(recipe, tmp_path / "mine")
    path = tmp_path / "mine" / file
    content = path.read_bytes()
    assert old is None or old in content
    path.write_bytes(new if old is None else content.replace(old, new, 1))
    assert words in dry(capsys, servers, tmp_path, recipe=recipe, mine=tmp_path / "mine")


CAT = [{"name": "cat"}, {"name": "mat"}, {"name": "hat"}]


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        ({"relations": [("cat", "on", "cat")]}, "relates 'cat' to itself"),
        ({"relations": ["cat on mat"]}, "relations are no list of objects"),
        ({"relations": {"cat": "mat"}}, "relations are no list of objects"),
        ({"relations": [("cat", None, "mat")]}, "the relation of 'cat' to 'mat' has no words"),
        ({"objects": [{"name": "cat", "attributes": "red"}]}, "'attributes' of object 'cat'"),
        (
            {"relations": [("hat", "on", "cat"), ("cat", "on", "mat"), ("mat", "under", "cat")]},
            "in a circle through 'cat', 'mat'$",  # and not the hat, which only waits for them
        ),
    ],
)
def test_graphs_that_cannot_grow(graph, words):
    given = graph.get("relations", [])
    if isinstance(given, list):
        given = [
            dict(zip(("subject", "relation", "object"), r)) if isinstance(r, tuple) else r
            for r in given
        ]
    with pytest.raises(ValueError, match=words):
        graphs.checked({"objects": CAT, **graph, "relations": given})


def test_objects_come_after_all_that_place_them_the_first_first():
    # long enough that looking through all of them for each would take minutes
    names = [f"o{n}" for n in range(20_000)]
    chain = [{"subject": a, "relation": "on", "object": b} for a, b in itertools.pairwise(names)]
    objects = [{"name": name} for name in [*names, "last"]]
    graph = graphs.checked({"objects": objects, "relations": chain})
    assert graphs.order(graph) == [names[-1], *names[-2::-1], "last"]
    wide = graphs.checked({"objects": objects[:5], "relations": chain[1:2]})
    assert graphs.order(wide) == ["o0", "o2", "o1", "o3", "o4"]
