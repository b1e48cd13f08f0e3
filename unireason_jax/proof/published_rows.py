"""Rows of the published data sets: reader, template and renderer against the official samples."""

import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unireason_jax.data.bagel.tokens import SampleSpec, tokenize
from unireason_jax.data.files import Broken, places, read_rows
from unireason_jax.data.records import Record, RecordError, untag
from unireason_jax.data.templates import STYLES, Style, to_record
from unireason_jax.data.templates.official import read_row
from unireason_jax.proof.packs import compare_sequences
from unireason_jax.proof.pixels import decoded_alike
from unireason_jax.proof.recorded import Recorded, Tape
from unireason_jax.proof.tally import Tally

RELEASED = Style(reference=True)
FORMS = {
    ("bagel", "vlm"): "bagel_vlm",
    ("uniedit", "edit"): "uni_edit",
    ("uniedit", "vqa"): "uni_edit_vqa",
}
"""Formats of a tree's types; those of the other trees are called like the tree."""

REFUSED = {
    r"empty|no words|no caption": "rows without words in a prompt: trained there, refused here",
    r"[Rr]easoning'": "rows whose reasoning is no text: trained there, refused here",
    r"marker": "conversations whose markers and images do not match: trained there, refused here",
    r"video|clip": "conversations about clips: here the frames are to be given as images",
    r"image|_path'": "rows with a list, or nothing, where one image is asked for: refused here",
}
"""Reasons for which a row that the reference trains on is refused on purpose."""

MOVED_BACK = "joined edits that the reference moves back from the last image: not so drawn here"
SURPLUS = "rows with more images than the reference shows: here all are shown, or the row refused"
OTHER_PIXELS = "rows whose images are decoded differently: tokens are compared, pixels are not"


def compare_rows(recorded: Recorded, tally: Tally) -> None:
    """Every sample from its row on: tokens, labels, positions and pixels of its pack."""
    packs = {pack["id"]: pack for pack in recorded.packs}
    alike = decoded_alike(recorded)
    for sample in recorded.samples:
        pack = packs.get(f"single/{sample['id']}")
        if pack is None:
            tally.exclude("samples that are in no pack of their own")
            continue
        if len(sample["images"]) > sum(item["type"] != "text" for item in sample["plan"]):
            tally.deviation(SURPLUS)
            continue
        kind = f"rows of {sample['tree']}: {sample['type']}"
        row = _rows(recorded, sample["tree"], sample["type"])[sample["record"]]
        tape = Tape(pack["dropout_draws"], pack["randn_draws"])
        try:
            record = record_of_sample(row, sample)
            sequence = tokenize(record, _spec(recorded, sample), tape)
        except RecordError as error:
            known = (text for sign, text in REFUSED.items() if re.search(sign, str(error)))
            if reason := next(known, None):
                tally.deviation(reason)
            else:
                tally.hold(kind, str(error))
            continue
        tally.deviation(MOVED_BACK, "end_idx_after_adjustment" in (sample.get("edit_choice") or {}))
        if any(picture["source"] not in alike for picture in sample["images"]):
            pack = {key: value for key, value in pack.items() if key != "packed_vit_tokens"}
            tally.deviation(OTHER_PIXELS)
        before = len(tally.failures)
        compare_sequences(recorded, tally, "rows", pack, [sequence], {})
        tally.hold(kind, sample["id"] if len(tally.failures) > before else "")


def record_of_sample(row: Mapping[str, Any], sample: Mapping[str, Any]) -> Record:
    """The record that the reference made of a row, with its recorded choices.

    Raises:
      RecordError: the row is refused.
    """
    style = STYLES["unireason_released"] if sample["tree"] == "unireason" else RELEASED
    form = FORMS.get((sample["tree"], sample["type"]), sample["tree"])
    if form != "bagel":
        found = read_row(row, form)
    elif sample["type"] == "t2i":
        found = {
            "task": "t2i",
            "id": row["id"],
            "prompt": sample["texts"][0],
            "image": row["image"],
        }
    else:
        found = {"task": "multi_edit", "id": row["id"], **_chosen_hops(row, sample)}
    return found if isinstance(found, Record) else to_record(found, style)


def _chosen_hops(row: Mapping[str, Any], sample: Mapping[str, Any]) -> dict[str, Any]:
    """The chain of edits that the reference drew from a row."""
    choice, images = sample["edit_choice"], row["image_list"]
    start, end = choice["start_idx"], choice.get("end_idx_after_adjustment", choice["end_idx"])
    picks = [draw["index"] for draw in sample["draws"] if draw["fn"] == "random.choice"][2:]
    words = [row["instruction_list"][start + hop][pick] for hop, pick in enumerate(picks)]
    if choice["concatenate"]:
        joined = "".join(f"{text}. " for text in words).rstrip()
        return {
            "input_image": images[start],
            "hops": [{"instruction": joined, "image": images[end]}],
        }
    hops = zip(words, images[start + 1 : end + 1])
    return {
        "input_image": images[start],
        "hops": [{"instruction": text, "image": image} for text, image in hops],
    }


def compare_supervision(recorded: Recorded, tally: Tally) -> None:
    """UniReason's rows in our own style: it differs from the released one where we say so."""
    ours, released = STYLES["unireason"], STYLES["unireason_released"]
    kinds = dict.fromkeys(s["type"] for s in recorded.samples if s["tree"] == "unireason")
    for kind in kinds:
        for name, row in _rows(recorded, "unireason", kind).items():
            try:
                example = read_row(row, "unireason")
                pair = to_record(example, ours), to_record(example, released)
            except RecordError:
                continue
            problem = ""
            for reason in differences(*pair):
                if reason in ON_PURPOSE:
                    tally.deviation(reason)
                else:
                    problem = f"{name}: {reason}"
            tally.hold("our own supervision: nothing else differs", problem)


EMPTY_SUGGESTION = (
    "traces that end in an empty suggestion and ask for another image: ours end at the last image"
)
NO_STOP = "last suggestions that ask for another image: ours stop"
NO_HANDOVER = "supervised texts that hand over to nothing: ours name what follows"
DROPPED = "supervised texts that condition dropout removes: ours stay"
NO_TAG = "explanations without tags: ours are written as plans"
EMPTY_PLAN = "empty explanations that become an empty thought: ours leave them out"
TWICE = "plans that bring their own tags and are wrapped again: ours are wrapped once"
FIRST_SOURCE = "rows with several source images of which only the first is shown: ours shows all"
ON_PURPOSE = {
    EMPTY_SUGGESTION,
    NO_STOP,
    NO_HANDOVER,
    DROPPED,
    NO_TAG,
    EMPTY_PLAN,
    TWICE,
    FIRST_SOURCE,
}


def differences(ours: Record, released: Record) -> Iterator[str]:
    """Where two records of one row differ: reasons of `ON_PURPOSE`, or what else it is."""
    mine, theirs = list(ours.segments), list(released.segments)
    extra = [s for s in mine if s.role == "source"][1:]
    if extra and sum(s.role == "source" for s in theirs) == 1:
        yield FIRST_SOURCE
        mine = [s for s in mine if all(s is not other for other in extra)]
    blank = [s for s in theirs if s.role == "plan" and s.loss == "none" and not s.text]
    if blank and not any(s.role == "plan" for s in mine):
        yield EMPTY_PLAN
        theirs.remove(blank[0])
    if len(theirs) == len(mine) + 1 and not theirs[-1].text:
        yield EMPTY_SUGGESTION
        theirs.pop()
        if mine[-1].next == "stop":
            mine[-1] = dataclasses.replace(mine[-1], next="none")
    if len(mine) != len(theirs):
        yield f"{len(mine)} segments instead of {len(theirs)}"
        return
    for one, other in zip(mine, theirs):
        if one.next != other.next:
            yield NO_STOP if (other.next, one.next) == ("image", "stop") else NO_HANDOVER
        if one.drop != other.drop:
            yield DROPPED
        if one.tag != other.tag:
            yield NO_TAG
        if one.text != other.text and one.text == untag(other.text or "", one.tag):
            yield TWICE
            other = dataclasses.replace(other, text=one.text)
        plain = {"next": "none", "drop": False, "tag": None}
        if dataclasses.replace(one, **plain) != dataclasses.replace(other, **plain):
            yield f"the {one.role} differs in other ways"


def compare_broken(recorded: Recorded, tally: Tally) -> None:
    """Broken rows are kept or refused with a reason; what the reference does is counted beside."""
    outcomes = {(e["type"], e["case"]): e["outcome"] for e in recorded.json("broken.json")}
    for case in recorded.json("records/broken/cases.json"):
        tree, _, kind = case["type"].partition("_")
        spec = _spec(recorded, {"tree": tree, "type": kind})
        form = FORMS.get((tree, kind), "auto")
        kept = refused = 0
        problem = ""
        try:
            for row in _every_row(recorded.folder / case["file"]):
                reason = _reason_against(row, form, spec)
                kept, refused = kept + (reason is None), refused + (reason is not None)
        except ValueError:  # the file as a whole, with its reason
            refused += 1
        except Exception as error:  # whatever else it is, it is a crash: what this check is for
            problem = f"{case['type']}/{case['case']}: {type(error).__name__}: {error}"
        tally.hold("broken rows: kept, or refused with a reason", problem)
        theirs = outcomes[case["type"], case["case"]].replace("_", " ")
        ours = "kept" if not refused else "refused, good rows beside it kept" if kept else "refused"
        tally.deviation(f"broken files: the reference {theirs}, here {ours}")


def _reason_against(row: Mapping[str, Any] | Broken, form: str, spec: SampleSpec) -> str | None:
    """Why a row is refused, None where it is kept."""
    if isinstance(row, Broken):
        return row.reason
    try:
        found = read_row({"id": "?", **row}, form)
        record = found if isinstance(found, Record) else to_record(found, RELEASED)
        tokenize(record, spec, np.random.default_rng(0))
    except RecordError as error:
        return error.reason
    return None


ORDER = (
    "visiting orders: the reference's follow from the text of the rows and from how many ranks and "
    "workers there are; ours from the seed alone, the same for any number of hosts, new every epoch"
)
REMAINDER = "records that an epoch of the reference leaves to no worker: ours visits every record"


def compare_packer(recorded: Recorded, tally: Tally) -> None:
    """What the official packing loop does that the pack plan does not, counted."""
    for run in recorded.json("packer_runs.json"):
        tally.deviation(
            "samples that the official packing loop loses: a plan packs every record once",
            len(run["lost_draws"]),
        )


def compare_orders(recorded: Recorded, tally: Tally) -> None:
    """The official loaders' orders are theirs alone; what they leave out of an epoch is counted."""
    seen: dict[tuple, set[str]] = {}
    for order in recorded.json("order.json"):
        tally.deviation(ORDER)
        names = order.get("one_epoch")
        if "note" not in order:  # the others start late, or read a part
            loader = (order["tree"], order["type"], order["world_size"], order["num_workers"])
            found = seen.setdefault(loader, set())
            found.update(names if isinstance(names, list) else ())  # a text: nothing was left
    for tree, kind, *loader in seen:
        whole = seen[tree, kind, 1, None]
        tally.deviation(REMAINDER, len(whole - seen[tree, kind, *loader]))


def _spec(recorded: Recorded, sample: Mapping[str, Any]) -> SampleSpec:
    return recorded.spec(
        latent_resize=recorded.resize("vae"),
        vit_resize=recorded.resize("vit", sample["tree"], sample["type"]),
        image_root=recorded.folder / "images",
    )


@functools.lru_cache(maxsize=64)
def _rows_of(folder: Path, tree: str, kind: str) -> dict[str, dict[str, Any]]:
    base = folder / "records" / tree
    files = [p for p in (base / f"{kind}.json", base / f"{kind}.jsonl") if p.exists()]
    files = files or sorted((base / kind).glob("*.parquet"))
    return {row["id"]: row for path in files for row in _every_row(path)}


def _rows(recorded: Recorded, tree: str, kind: str) -> dict[str, dict[str, Any]]:
    """Rows of a tree's type by id."""
    return _rows_of(recorded.folder, tree, kind)


def _every_row(path: Path) -> Iterator[dict[str, Any] | Broken]:
    for place, rows in places(path):
        yield from read_rows(path, place, rows)
