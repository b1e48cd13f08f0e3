"""GenEval 2, OneIG and T2I-CompBench++: files, places, answers, and formulas on values by hand."""

import json
import math

import pytest

from unireason_jax import benchmark
from unireason_jax.evals.published import compbench, geneval2, oneig
from unireason_jax.evals.published.base import Item, Malformed, Question, Scored


def jsonl(path, *rows):
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


ATOMS = {
    "prompt": "four white bicycles",
    "atom_count": 3,
    "vqa_list": [["How many bicycles?", "four"], ["White?", "Yes"], ["Any bicycles?", "Yes"]],
    "skills": ["count", "attribute", "object"],
}
SINGLE = {"prompt": "a cow", "atom_count": 1, "vqa_list": [["A cow?", "Yes"]], "skills": ["object"]}


def soft(item, *values):
    rows = {str(n): {"score": value, "soft": 1.0} for n, value in enumerate(values)}
    return Scored(item, item.id, rows)


def test_soft_tifa_is_the_mean_of_geometric_means(tmp_path):
    first, second = geneval2.load(jsonl(tmp_path / "g.jsonl", ATOMS, SINGLE))
    assert geneval2.SUITE.places(second) == ("00001.png",)
    found = geneval2.aggregate([soft(first, 0.25, 0.5, 1.0), soft(second, 0.8)])
    assert found["Soft-TIFA GM"] == pytest.approx(100 * (0.5 + 0.8) / 2)  # (1/8) ** (1/3) = 1/2
    assert found["Soft-TIFA AM"] == pytest.approx(100 * (1.75 / 3 + 0.8) / 2)
    assert found["AM, object"] == pytest.approx(90) and found["AM, count"] == pytest.approx(25)
    assert found["GM, atomicity 3"] == pytest.approx(50)
    assert found["GM, atomicity 1"] == pytest.approx(80)
    assert geneval2.geometric_mean([0.0, 1.0]) == 0  # one atom that is surely wrong
    assert next(iter(found)) == "Soft-TIFA GM"


@pytest.mark.parametrize(
    ("step", "answer", "score", "is_soft"),
    [
        ("0", '{"four": 0.5, " Four": 0.125, "4": 0.25, "five": 0.125}', 0.875, 1),
        ("1", '{"Yes": 0.75, " yes": 0.125, "No": 0.125}', 0.875, 1),
        ("1", '{"No": 1.0}', 0, 1),
        ("0", "4.", 1, 0),
        ("1", "<think>hm</think> **Yes**", 1, 0),
        ("1", "No", 0, 0),
    ],
)
def test_a_right_answer_is_worth_its_probability(step, answer, score, is_soft):
    item = Item("0", "p", (), ATOMS)
    found = geneval2.read(Question("k", step, "", (), item), answer)
    assert found == {"score": pytest.approx(score), "soft": is_soft}


@pytest.mark.parametrize("answer", ["I think yes", "", '{"Yes": 2}', "{"])
def test_other_answers_of_geneval2_are_malformed(answer):
    with pytest.raises(Malformed):
        geneval2.read(Question("k", "1", "", (), Item("0", "p", (), ATOMS)), answer)


def test_questions_of_geneval2_ask_for_probabilities(tmp_path):
    item = Item("00000", "p", (), ATOMS)
    asked = geneval2.questions(item, "00000.png", tmp_path, geneval2.RUBRICS)
    assert len(asked) == 3 and all(question.soft for question in asked)
    assert asked[1].words.startswith("White?")


def asked_of(**more):
    row = {"category": "Portrait", "id": "000", "prompt_en": "p"}
    row |= {"question": {"1": "A man?", "2": "Is he tall?", "3": "Does his hat fit?"}}
    return row | {"dependency": {"1": [0], "2": [1], "3": [2]}} | more


def test_oneig_takes_away_what_depends_on_a_no_but_not_in_a_chain(tmp_path):
    (item,) = oneig.load(jsonl(tmp_path / "o.jsonl", asked_of()))
    assert oneig.places(item) == ("human/model/000.png",)
    no_man = {"1": 0.0, "2": 1.0, "3": 1.0}  # 0, 0 for the man, 1: its own parent was answered yes
    answers = [no_man, dict.fromkeys("123", 1.0), dict.fromkeys("123", 0.0), {**no_man, "1": 1.0}]
    rows = {f"{c}/{k}": {"yes": v} for c, given in enumerate(answers) for k, v in given.items()}
    image = Scored(item, "x", rows)
    assert oneig.alignment(image) == pytest.approx((1 / 3 + 1 + 0 + 1) / 4)
    assert oneig.aggregate([image])["alignment"] == pytest.approx(7 / 12)


def test_oneig_text_is_one_formula_over_all_pictures(tmp_path):
    row = {"category": "Text Rendering", "id": 7, "prompt": "p", "text_content": "Open all Day!"}
    (item,) = oneig.load(jsonl(tmp_path / "o.jsonl", row))
    asked = oneig.questions(item, "x", tmp_path, oneig.RUBRICS)
    assert [question.step for question in asked] == [f"text {crop}" for crop in range(4)]
    read = [
        oneig.read(q, a) for q, a in zip(asked, ["Open all Day", "Open Day", "", "open all day"])
    ]
    assert [r["edits"] for r in read] == [0, 4, 12, 2]
    assert [r["exact"] for r in read] == [1, 0, 0, 0]
    assert [r["matched"] for r in read] == [3, 2, 0, 1]
    found = oneig.aggregate([Scored(item, "x", {q.step: r for q, r in zip(asked, read)})])
    assert found["text, ED"] == 4.5 and found["text, CR"] == 0.25 and found["text, WAC"] == 0.5
    assert found["text"] == pytest.approx(1 - 4.5 * 0.75 * 0.5 / 100)


@pytest.mark.parametrize(
    ("one", "two", "edits"),
    [("", "", 0), ("abc", "", 3), ("", "ab", 2), ("kitten", "sitting", 3), ("flaw", "lawn", 2)],
)
def test_edit_distance(one, two, edits):
    assert oneig.edit_distance(one, two) == edits


def test_oneig_texts_are_compared_without_marks():
    assert oneig.normalized("A  b,\nC!") == "A b C"
    assert oneig.normalized("你 好。") == "你好"
    assert oneig.normalized("No text recognized.") == oneig.normalized("No text recognized") == ""


def test_a_folder_of_oneig_is_joined(tmp_path):
    (tmp_path / "scripts" / "Q_D").mkdir(parents=True)
    table = "category,id,prompt_en,type,prompt_length,class\n"
    table += (
        'General_Object,000,"a cup, red",NP,short,None\nText Rendering,000,a sign,NP,short,None\n'
    )
    table += "Knowledge_Reasoning,000,a cell,NP,short,biology\n"
    (tmp_path / "OneIG-Bench.csv").write_text(table)
    (tmp_path / "scripts" / "text_content.csv").write_text("id,text_content\n000,STOP\n")
    pairs = {"000": {"question": '{"1": "A cup?"}', "dependency": '{"1": [0]}'}}
    (tmp_path / "scripts" / "Q_D" / "object.json").write_text(json.dumps(pairs))
    items = oneig.load(tmp_path)
    assert [item.id for item in items] == ["object/000", "text/000", "reasoning/000"]
    counts = [len(oneig.questions(item, "x", tmp_path, oneig.RUBRICS)) for item in items]
    assert counts == [4, 4, 0]  # reasoning is drawn for the official script, not judged
    (tmp_path / "scripts" / "Q_D" / "object.json").unlink()
    with pytest.raises(ValueError, match=r"Q_D/object\.json with its questions is missing"):
        oneig.load(tmp_path)


@pytest.fixture
def prompts(tmp_path):
    folder = tmp_path / "dataset"
    folder.mkdir()
    (folder / "color_val.txt").write_text("a green bench and a blue bowl\nA red hat.\n")
    (folder / "spatial_val.txt").write_text("a cup on the left of a dog\n")
    (folder / "complex_val.txt").write_text("One thing.\nTwo things.\nThree things.\n")
    (folder / "complex_val_spatial.txt").write_text("one thing.\n")
    (folder / "complex_val_action.txt").write_text("two things\n")
    return folder


def test_compbench_places_and_questions(prompts, tmp_path):
    items = compbench.load(prompts)
    assert [item.id for item in items[:3]] == ["color/0", "color/1", "spatial/0"]
    assert compbench.places(items[1])[3] == "color/samples/A red hat._000013.png"
    assert compbench.phrases(items[0]) == ["a green bench", "a blue bowl"]
    first = compbench.questions(items[0], "x", tmp_path, compbench.RUBRICS)
    assert [q.step for q in first] == ["phrase 0", "phrase 1"] and "blue bowl" in first[1].words
    (whole,) = compbench.questions(items[2], "x", tmp_path, compbench.RUBRICS)
    assert compbench.read(first[0], '{"score": 3}') == {"phrase 0": 0.75}
    assert compbench.read(whole, '```json\n{"score": 2, "explanation": "x"}```') == {"whole": 0.4}
    for wrong in ('{"score": 5}', '{"score": 2.5}', "three"):
        with pytest.raises(Malformed):
            compbench.read(first[0], wrong)
    assert [item.raw["parts"] for item in items[3:]] == ["spatial", "action", "all"]


def test_compbench_is_the_product_over_phrases_and_the_mean_of_categories(prompts):
    color, _, spatial = compbench.load(prompts)[:3]
    one = Scored(color, "x", {"phrase 0": {"phrase 0": 0.75}, "phrase 1": {"phrase 1": 0.2}})
    other = Scored(color, "y", {"phrase 0": {"phrase 0": 1.0}, "phrase 1": {"phrase 1": 1.0}})
    found = compbench.aggregate([one, other, Scored(spatial, "z", {"whole": {"whole": 0.4}})])
    assert found["color"] == pytest.approx(0.575) and found["spatial"] == pytest.approx(0.4)
    assert found["mean of categories (ours)"] == pytest.approx(0.4875)


def test_answers_of_the_official_scripts(prompts, tmp_path):
    def leave(category, name, values):
        folder = tmp_path / "official" / category / name
        folder.mkdir(parents=True)
        rows = [{"question_id": n, "answer": f"{v:.4f}"} for n, v in enumerate(values)]
        (folder / "vqa_result.json").write_text(json.dumps(rows))

    leave("color", "annotation_blip", [0.5] * 10 + [1.0] * 10)
    for name, value in zip(compbench.THREE, (0.9, 0.6, 0.3)):
        leave("complex", name, [value] * 30)
    flags = ["--suite", "compbench", "--prompts", str(prompts), "--out", str(tmp_path / "out")]
    flags += ["--detections", str(tmp_path / "official")]
    benchmark.run(benchmark.parser().parse_args(flags))
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["scores"]["color"]["value"] == pytest.approx(0.75)
    three = [(0.9 + 0.6) / 2, (0.9 + 0.3) / 2, (0.9 + 0.6 + 0.3) / 3]
    assert report["scores"]["complex"]["value"] == pytest.approx(math.fsum(three) / 3)
    assert report["coverage"] == {"images": 60, "scored": 50, "missing": {"no detections": 10}}
    with pytest.raises(
        ValueError, match="--detections belongs to --suite geneval, tiif, compbench"
    ):
        benchmark.run(benchmark.parser().parse_args([flags[0], "geneval2", *flags[2:]]))


@pytest.mark.parametrize(
    ("load", "row", "said"),
    [
        (geneval2.load, ATOMS | {"vqa_list": [["q"]]}, "no list of [question, answer]"),
        (geneval2.load, ATOMS | {"skills": ["x"]}, "3 questions, 1 skills"),
        (oneig.load, asked_of(category="Cars"), "category 'Cars' is none of"),
        (oneig.load, asked_of(dependency={"1": [9], "2": [], "3": []}), "depends on 9"),
        (oneig.load, asked_of(dependency={"1": [0]}), "question 2 has no words, or no list"),
        (oneig.load, asked_of(question="{"), "field 'question' is None"),
        (compbench.load, {"category": "cars", "prompt": "p"}, "category 'cars' is none of"),
        (compbench.load, {"category": "color", "prompt": "p" * 300}, "too long for a file's name"),
    ],
)
def test_wrong_rows_are_named(load, row, said, tmp_path):
    with pytest.raises(ValueError, match="item 0") as error:
        load(jsonl(tmp_path / "rows.jsonl", row))
    assert said in str(error.value) and "rows.jsonl" in str(error.value)
