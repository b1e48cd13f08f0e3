"""Recorded images, sizes, position ids and strings against ours."""

import hashlib

import numpy as np

from unireason_jax.data import images
from unireason_jax.proof.recorded import Recorded, resize_of
from unireason_jax.proof.tally import Tally

JPEG_LEVELS = 2  # of 255, where another decoder or resampler may round differently
DECODED_BETTER = {
    "LA": "grey images with alpha: the reference forgets the alpha, here white shines through",
    "I;16": "16-bit grey images: the reference turns them white, here the upper byte is kept",
}
TRUNCATED = "truncated images: the reference fills the missing rows, here the record is refused"


def compare_files(recorded: Recorded, tally: Tally) -> None:
    """Every image file: size, RGB bytes, and the same refusals."""
    for name, entry in recorded.files.items():
        path = recorded.folder / "images" / name
        try:
            pixels = images.load(path)
        except (ValueError, FileNotFoundError) as error:
            if "error" in entry:
                tally.hold("image files: refused alike")
            elif _is_truncated(error):
                tally.deviation(TRUNCATED)
            else:
                tally.hold("image files: RGB sizes", f"{name}: {error}")
            continue
        if "error" in entry:
            tally.hold("image files: refused alike", f"{name}: we read what the reference cannot")
            continue
        tally.equal("image files: RGB sizes", name, pixels.shape, (*entry["size"][::-1], 3))
        if reason := DECODED_BETTER.get(_mode(recorded, name)):
            tally.deviation(reason)
        elif _digest(pixels) != entry["sha256"]:
            tally.equal(
                f"image files: mean colour (decoder differs, {JPEG_LEVELS} levels)",
                name,
                pixels.mean((0, 1)),
                entry["mean"],
                level=JPEG_LEVELS,
            )
        else:
            tally.hold("image files: RGB bytes")


def compare_transforms(recorded: Recorded, tally: Tally) -> None:
    """Every resized image of the samples, and its float values."""
    exact = decoded_alike(recorded)
    lut = recorded.images["lut_float32"]
    tally.equal("pixel values: float32 of each level", "lut", images.PIXEL_VALUES, lut)
    for sample in recorded.samples:
        for picture in sample["images"]:
            name = picture["source"]
            if _mode(recorded, name) in DECODED_BETTER:
                continue
            rule = recorded.resize(picture["transform"], sample["tree"], sample["type"])
            path = recorded.folder / "images" / name
            try:
                pixels = rule.apply(images.load(path), picture["img_num"])
            except ValueError as error:
                if not _is_truncated(error):
                    raise
                tally.deviation(TRUNCATED)
                continue
            wanted = recorded.images[picture["tensor"]].transpose(1, 2, 0)
            level = 0 if name in exact else JPEG_LEVELS
            tally.equal(
                f"resized images: {picture['transform']}", name, pixels, wanted, level=level
            )
            if not level:
                floats = images.PIXEL_VALUES[pixels.transpose(2, 0, 1)].astype("<f4")
                same = hashlib.sha256(floats.tobytes()).hexdigest() == picture["float_sha256"]
                tally.hold("resized images: float32 bytes", "" if same else name)


def compare_probes(recorded: Recorded, tally: Tally) -> None:
    """A few images at the released sizes: shape and pixels."""
    exact = decoded_alike(recorded)
    settings = recorded.json("resize_table.json")["settings"]
    for probe in recorded.json("real_settings_probe.json"):
        name, where = probe["image"], f"{probe['image']} {probe['setting']}"
        if _mode(recorded, name) in DECODED_BETTER:
            continue
        rule = resize_of(settings[probe["setting"]])
        pixels = rule.apply(images.load(recorded.folder / "images" / name))
        tally.equal("released sizes: shapes", where, (3, *pixels.shape[:2]), probe["shape"])
        rows, columns = np.transpose(probe["points_yx"])
        level = 0 if name in exact else JPEG_LEVELS
        wanted = probe["u8_rgb_at_points"]
        tally.equal("released sizes: pixels", where, pixels[rows, columns], wanted, level=level)


def compare_sizes(recorded: Recorded, tally: Tally) -> None:
    """The resize rule: every size, setting and number of images that share the pixels."""
    table = recorded.json("resize_table.json")
    for key, results in table["results"].items():
        name, number = key.split("/img_num=")
        rule = resize_of(table["settings"][name])
        for size, wanted in zip(table["sizes"], results):
            tally.equal("resized sizes", f"{size} {key}", rule(*size, int(number)), wanted)


def compare_positions(recorded: Recorded, tally: Tally) -> None:
    """Position ids, stretched over the table and not."""
    table = recorded.json("position_ids.json")
    for side, counts in table["interpolate_1d"].items():
        for count, wanted in counts.items():
            found = images.positions(1, int(count), int(side), True)
            tally.equal("position ids: stretched", f"{count} of {side}", found, wanted)
    for case in table["extrapolate_examples"]:
        rows, columns = case["img_h"] // case["patch"], case["img_w"] // case["patch"]
        if max(rows, columns) > case["max_side"]:
            tally.deviation(
                "grids larger than the position table: the reference lets positions collide, "
                "here the image is refused"
            )
            continue
        found = images.positions(rows, columns, case["max_side"])
        tally.equal("position ids: plain", str(case["ids"][:4]), found, case["ids"])


def compare_strings(recorded: Recorded, tally: Tally) -> None:
    """Ids of every recorded string and of the texts of every sample; control ids."""
    tokenizer = recorded.tokenizer
    controls = (tokenizer.bos, tokenizer.eos, tokenizer.soi, tokenizer.eoi)
    tally.equal("tokenizer: control ids", "config.json", controls, recorded.controls)
    for case in recorded.json("tokenizer_cases.json"):
        tally.equal("tokenizer: strings", case["text"], tokenizer.encode(case["text"]), case["ids"])
    for sample in recorded.samples:
        for text, ids in zip(sample["texts"], sample["text_ids"]):
            tally.equal("tokenizer: texts of samples", text, tokenizer.encode(text), ids)


def decoded_alike(recorded: Recorded) -> set[str]:
    """Files whose decoded bytes equal the recording's."""
    alike = set()
    for name, entry in recorded.files.items():
        try:
            if _digest(images.load(recorded.folder / "images" / name)) == entry.get("sha256"):
                alike.add(name)
        except ValueError:
            continue
    return alike


def _is_truncated(error: Exception) -> bool:
    return "cannot be decoded" in str(error)


def _mode(recorded: Recorded, name: str) -> str:
    """Pillow's mode of an image file, 16-bit modes as one."""
    mode = recorded.files[name]["mode"]
    return "I;16" if mode.startswith("I;16") else mode


def _digest(pixels: np.ndarray) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()
