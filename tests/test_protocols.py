"""Protocols of sampling: recorded scripts, and cases by hand that the open recordings lack."""

import copy
import json

import pytest

from tests.recorded_protocols import DRAWN, EDITED, case, drew, save, vae, vit, wrote
from unireason_jax import parity
from unireason_jax.data.templates import prompts
from unireason_jax.inference.settings import Settings
from unireason_jax.proof import protocols

PLAN = "<think>\nA red cat.\n</think>\n"
THINK = prompts.BAGEL_THINK_IMAGE
SQUARE = [1024, 1024]


def outcome(folder, made):
    save(folder, made)
    (found,) = protocols.compare_protocols(folder).outcomes
    return found


def test_every_open_recording(protocol_goldens):
    result = protocols.compare_protocols(protocol_goldens)
    assert [(one.case, one.problems) for one in result.failures] == []
    files = [file for file in protocol_goldens.glob("*.json") if file.name != "tokenizer.json"]
    assert len(result.outcomes) == len(files)


def irg():
    drawn = ["cat", PLAN]
    shown = [vae("image1", *SQUARE), vit("image1", 980, 980)]
    improve = "<think>\nRedder.\n</think>\n"
    return case(
        "irg",
        {"file": "x/tiif_multi_turn_gen.py", "arguments": {"prompt": "cat", "max_length": 300}},
        {"prompt": "cat"},
        {"image1": SQUARE, "image2": SQUARE},
        wrote(PLAN, prompts.IRG_THINK, "cat", limit=300),
        drew("image1", SQUARE, [prompts.IRG_THINK, *drawn], [prompts.IRG_THINK]),
        wrote(improve, prompts.IRG_THINK, *drawn, *shown, limit=300),
        drew(
            "image2",
            SQUARE,
            [prompts.IRG_THINK, *drawn, *shown, improve],
            [prompts.IRG_THINK, *drawn, *shown],
            [prompts.IRG_THINK, *drawn, improve],
            **EDITED,
        ),
    )


def kris_refine():
    source = [vae("source", 512, 688), vit("source", 476, 644)]
    told = prompts.APPLY_THOUGHT_TO_EDIT.format(plan=PLAN, prompt="a hat")
    scales = EDITED | {"cfg_img_scale": 1.5}
    return case(
        "unireason",
        {"file": "gen/gen_images_mp_kris_refine.py", "arguments": ["--output_dir", "o", "--think"]},
        {"instruction": "a hat", "image": "source"},
        {"source": [480, 640], "image1": [512, 688], "image2": [512, 688]},
        wrote(PLAN, THINK, *source, "a hat", limit=2048),
        drew(
            "image1",
            [512, 688],
            [THINK, *source, "a hat", PLAN],
            [THINK, *source],
            [THINK, "a hat", PLAN],
            **scales,
        ),
        drew("image2", [512, 688], [*source, PLAN], source, [told], **scales),
    )


def interleaved():
    source = [vae("source", 512, 768), vit("source", 518, 770)]
    return case(
        "bagel",
        {"file": "inference.ipynb", "cell": 24, "call": ["@source", "a", "b"]},
        {"list": ["@source", "a", "b"]},
        {"source": [200, 300], "image1": [512, 768]},
        wrote(PLAN, THINK, *source, "a", "b", limit=1000, temperature=None),
        drew(
            "image1",
            [512, 768],
            [THINK, *source, "a", "b", PLAN],
            [THINK, *source, "a"],
            [THINK, "a", "b"],
            **EDITED,
        ),
    )


def uni_edit():
    source = [vae("source", 512, 512), vit("source", 518, 518)]
    return case(
        "uni_edit",
        {"file": "eval/gen/gen_images_mp_rise.py", "arguments": ["--think"]},
        {"instruction": "later", "image": ["source"]},
        {"source": [512, 512], "image1": [512, 512]},
        wrote(PLAN, THINK, *source, "later", limit=2048),
        drew(
            "image1",
            [512, 512],
            [THINK, *source, "later", PLAN],
            [THINK, *source],
            [THINK, "later", PLAN],
            **EDITED,
        ),
    )


def two_samples():
    """The script draws both drafts first, and then refines one after the other."""
    calls = [drew(f"image{n}", SQUARE, ["cat"], [], cfg_interval=[0.0, 1.0]) for n in (1, 2)]
    for n in (1, 2):
        start = [prompts.REFINE, "cat", prompts.REFLECT]
        seen, said = vit(f"image{n}", 980, 980), f"<sugg>{n}</sugg>\n"
        shown = [*start, vae(f"image{n}", *SQUARE), seen]
        told = prompts.APPLY_SUGGESTION.format(reflection=said, prompt="cat")
        calls.append(wrote(said, *start, seen, limit=8192))
        free, scales = [THINK, "cat", told], EDITED | {"cfg_img_scale": 1.5}
        calls.append(drew(f"image{n + 2}", SQUARE, [*shown, said], shown, free, **scales))
    return case(
        "unireason",
        {"file": "gen_images_mp_corebench_refine.py", "arguments": ["--num_images", "2"]},
        {"prompt": "cat", "samples": 2},
        dict.fromkeys(("image1", "image2", "image3", "image4"), SQUARE),
        *calls,
    )


def plain_call():
    """`InterleaveInferencer` with the defaults of its function."""
    source = [vae("source", 512, 512), vit("source", 518, 518)]
    arguments = {"image": "@source", "text": "a hat"}
    scales = {"cfg_text_scale": 3.0, "cfg_img_scale": 1.5}
    return case(
        "bagel",
        {"file": "inferencer.py", "arguments": arguments},
        {"instruction": "a hat", "image": "source"},
        {"source": [512, 512], "image1": [512, 512]},
        drew("image1", [512, 512], [*source, "a hat"], source, ["a hat"], **scales),
    )


def app():
    """Arguments of a caller, and a renormalisation that does not let branches be merged."""
    arguments = {"prompt": "cat", "cfg_text_scale": 6.0, "cfg_renorm_type": "text_channel"}
    scales = DRAWN | {"cfg_text_scale": 6.0, "cfg_img_scale": 1.5}
    return case(
        "bagel",
        {"file": "app.py", "function": "text_to_image", "arguments": arguments},
        {"prompt": "cat", "size": [768, 1024]},
        {"image1": [768, 1024]},
        drew(
            "image1",
            [768, 1024],
            ["cat"],
            [],
            ["cat"],
            **scales | {"cfg_renorm_type": "text_channel"},
        ),
    )


def test_a_fork_is_walked_by_the_preset_of_the_script_it_left_alone(tmp_path):
    source = [vae("source", 512, 512), vit("source", 518, 518)]
    scales = EDITED | {"cfg_img_scale": 1.5}
    made = case(
        "uni_edit",
        {"file": "eval/gen/gen_images_mp_kris.py", "arguments": []},
        {"instruction": "a hat", "image": "source"},
        {"source": [512, 512], "image1": [512, 512]},
        drew("image1", [512, 512], [*source, "a hat"], source, ["a hat"], **scales),
    )
    found = outcome(tmp_path, made)
    assert (found.preset, found.problems) == ("bagel_kris", [])


@pytest.mark.parametrize(
    "make", [irg, kris_refine, interleaved, uni_edit, app, two_samples, plain_call]
)
def test_scripts_that_no_open_recording_has(make, tmp_path):
    found = outcome(tmp_path, make())
    assert found.problems == [] and found.calls == len(make()["events"]) - 1


@pytest.mark.parametrize(
    "path, value, said",
    [
        ((0, "contents", 1, "text"), "dog", "call 1 (gen_text): context, part 2"),
        ((0, "max_length"), 301, "limit of tokens: 300, not 301"),
        ((0, "do_sample"), False, "temperature: 0.3, not 0.0"),
        ((1, "size"), [512, 1024], "call 2 (gen_image): size"),
        ((1, "cfg_text", "contents"), [], "cfg_text: ours has beside"),
        ((2, "slots"), 1, "call 3 (gen_text): context: slots"),
        ((3, "cfg_text_scale"), 2.0, "text scale: 4.0, not 2.0"),
        ((3, "cfg_img", "rope"), 5, "cfg_img: next position"),
        ((3, "full", "contents", 4, "size"), [518, 518], "vit of image1 980 x 980, not vit"),
        ((3, "cfg_interval"), [0.4, 1.0], "interval"),
        ((3, "taylorseer"), True, "TaylorSeer"),
        ((1, "evaluated_when_guided"), ["full"], "we compute 1 contexts beside"),
    ],
)
def test_a_difference_is_told(path, value, said, tmp_path):
    made = copy.deepcopy(irg())
    place = made["events"]
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert any(said in problem for problem in outcome(tmp_path, made).problems)


def test_a_script_that_goes_on_or_ends_early(tmp_path):
    made = irg()
    longer = made | {"events": [*made["events"][:-1], made["events"][3], {"op": "end"}]}
    assert "the script goes on" in outcome(tmp_path, longer).problems[-1]
    shorter = made | {"events": [*made["events"][:2], {"op": "end"}]}
    assert "we go on" in outcome(tmp_path, shorter).problems[-1]
    cut = made | {"events": made["events"][:2], "cut_after_images": 1}
    assert outcome(tmp_path, cut).problems == []


@pytest.mark.parametrize(
    "change, said",
    [
        ({"system": "janus"}, "is no script we know"),
        ({"source": {"file": "gen_images_mp_new.py", "arguments": []}}, "irg_new"),
        ({"format": "protocol-2"}, "its format is 'protocol-2'"),
        ({"tokenizer": "qwen"}, "its tokenizer is 'qwen'"),
        ({"inputs": {"melody": "la"}}, "its inputs are ['melody']"),
        ({"inputs": {"prompt": "x", "image": "away"}}, "pictures that it does not list"),
    ],
)
def test_what_nobody_knows_fails_aloud(change, said, tmp_path, capsys):
    made = irg() | change
    save(tmp_path, made, irg())
    assert parity.main(["--goldens", str(tmp_path), "--json", str(tmp_path / "o" / "p.json")]) == 1
    shown = capsys.readouterr().out
    assert said in shown and "FAIL: 1 of 2 cases" in shown
    assert not json.loads((tmp_path / "o" / "p.json").read_text())["passed"]


def test_a_file_that_is_no_recording_fails_as_a_case_of_its_own(tmp_path, capsys):
    save(tmp_path, irg())
    (tmp_path / "broken.json").write_text("{")
    assert parity.main(["--goldens", str(tmp_path)]) == 1
    assert "broken" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text, kept",
    [
        ("<think>a</think>\n b \n", "b"),
        ("<think>a</think>", "<think>a</think>"),
        ("<think>a</think>\n", ""),
        ("no tags", "no tags"),
        ("a</think>b</think>c", "b"),
    ],
)
def test_of_a_plan_only_what_follows_the_thought(text, kept):
    assert Settings(simple_think=True).kept("plan", text) == kept
    assert Settings(simple_think=True).kept("reflection", text) == text
    assert Settings().kept("plan", text) == text
