"""A packed row as a picture: tokens by stream, what is learned, and the mask.

Each record is a card. A text turn is a chain of words, an image copy is its patches in a grid
(pixels of ViT patches, false colours of latents, noised ones as noisy as they are trained).
Underlined words carry cross entropy, framed images the flow loss, arrows name a hand-over.
"""

import dataclasses

import numpy as np
from PIL import Image, ImageDraw

from unireason_jax.data.samples import LATENT, STREAMS, TEXT, VIT
from unireason_jax.data.text.tokenizer import Tokenizer
from unireason_jax.pictures import splits
from unireason_jax.pictures.fonts import font, length, write
from unireason_jax.pictures.splits import SampleSplits, Split
from unireason_jax.rules import visibility

Row = dict[str, np.ndarray]

_INK, _SOFT, _LINE, _PAPER, _CARD = "#1d2733", "#6b7785", "#d5dbe3", "#f4f6f9", "#ffffff"
_MODES = {
    visibility.CAUSAL: ("causal", "#2f5fb3", "#eaf0fb"),
    visibility.FULL: ("full", "#24865b", "#e8f5ee"),
    visibility.NOISED: ("noised", "#7d3fa8", "#f4ebfa"),
}
_VIT = ("#d07a13", "#fdf2e2")
_TEXT_LOSS, _FLOW_LOSS = "#d6283f", "#d6283f"
_MASK = {TEXT: (116, 152, 219), VIT: (236, 168, 84), LATENT: (96, 184, 140)}
_MASK_NOISED, _MASK_HIDDEN = (176, 122, 208), (250, 251, 252)

_WIDTH, _PAD, _GAP = 1400, 24, 8
_WORD_HEIGHT, _GRID, _MASK_SIZE, _MOST_WORDS = 22, 64, 560, 160


def draw_row(
    row: Row, tokenizer: Tokenizer | None = None, *, most: int = 6, title: str = "packed row"
) -> Image.Image:
    """A picture of one assembled row.

    Args:
      row: arrays of one row without the leading batch axis (`data.rows.assemble`).
      tokenizer: names the tokens and parts adjacent text turns; without it ids are shown.
      most: records drawn as cards; the mask and the fill always show the whole row.
      title: first line.

    Returns:
      An RGB picture, 1400 pixels wide.
    """
    found = splits.samples(row, tokenizer.bos if tokenizer else None)
    page = _Page(row, tokenizer)
    page.head(title, found)
    for number, sample in enumerate(found[:most]):
        page.card(number, sample)
    if len(found) > most:
        page.note(f"... and {len(found) - most} more records in this row")
    page.mask(found)
    return page.finish()


def _with_colours(row: Row) -> Row:
    """The row; where it holds codes, with latents that give each code a colour of its own."""
    if "code_ids" not in row:
        return row
    codes = row["code_ids"]
    colours = np.random.default_rng(0).uniform(-1, 1, (int(codes.max(initial=0)) + 1, 3))
    return row | {
        "latents": colours[codes],
        "latent_positions": np.arange(len(codes)),
        "latent_weights": row["code_weights"],
        "latent_logits": np.full(len(codes), -np.inf),
    }


@dataclasses.dataclass
class _Box:
    """A drawn split waiting for its place on a line."""

    image: Image.Image
    split: Split


class _Page:
    """A tall canvas that is filled from the top and cut at the end."""

    def __init__(self, row: Row, tokenizer: Tokenizer | None):
        self.row, self.tokenizer = _with_colours(row), tokenizer
        self.canvas = Image.new("RGB", (_WIDTH, 1000), _PAPER)
        self.y = _PAD
        self.names = {}
        if tokenizer:
            marks = (tokenizer.bos, tokenizer.eos, tokenizer.soi, tokenizer.eoi)
            self.names = dict(zip(marks, ("bos", "eos", "img", "/img")))

    def head(self, title: str, found: list[SampleSplits]) -> None:
        """Title, and how full each stream is."""
        used = [int((row >= 0).sum()) for row in self._keys_by_stream()]
        budgets = [len(keys) for keys in self._keys_by_stream()]
        draw = self._room(100)
        draw.text((_PAD, self.y), title, _INK, font(24))
        count = (
            f"{len(found)} record{'s' * (len(found) != 1)}, {sum(used)} of {sum(budgets)} tokens"
        )
        draw.text((_WIDTH - _PAD, self.y + 8), count, _SOFT, font(15), anchor="ra")
        self.y += 46
        x, span = _PAD, (_WIDTH - 2 * _PAD - 40) // 3
        for stream, name in enumerate(STREAMS):
            fill = used[stream] / budgets[stream] if budgets[stream] else 0.0
            color = _hex(_MASK[stream])
            draw.rounded_rectangle((x, self.y, x + span, self.y + 12), 6, _LINE)
            if fill:
                draw.rounded_rectangle((x, self.y, x + max(12, span * fill), self.y + 12), 6, color)
            label = f"{name}  {used[stream]} / {budgets[stream]}" + (
                f"  {fill:.1%}" if fill else ""
            )
            draw.text((x, self.y + 18), label, _SOFT, font(14))
            x += span + 20
        self.y += 52

    def card(self, number: int, sample: SampleSplits) -> None:
        """One record: its splits in true order, wrapped."""
        lines = _wrapped([self._box(split) for split in sample.splits], _WIDTH - 4 * _PAD)
        height = 44 + sum(max(box.image.height for box in line) + _GAP for line in lines) + 8
        draw = self._room(height + 14)
        area = (_PAD, self.y, _WIDTH - _PAD, self.y + height)
        draw.rounded_rectangle(area, 10, _CARD, _LINE)
        x = 2 * _PAD
        draw.text((x, self.y + 13), f"record {number + 1}", _INK, font(16))
        detail = f"{len(sample.tokens)} tokens in {len(sample.splits)} splits"
        draw.text((x + 92, self.y + 15), detail, _SOFT, font(14))
        y = self.y + 44
        for line in lines:
            x = 2 * _PAD
            tallest = max(box.image.height for box in line)
            for box in line:
                self.canvas.paste(box.image, (x, y + (tallest - box.image.height) // 2))
                x += box.image.width + _GAP
            y += tallest + _GAP
        self.y += height + 14

    def note(self, text: str) -> None:
        """A line of small print."""
        self._room(30).text((2 * _PAD, self.y), text, _SOFT, font(15))
        self.y += 30

    def mask(self, found: list[SampleSplits]) -> None:
        """The mask of the row in true order, with the legend beside it."""
        draw = self._room(_MASK_SIZE + 100)
        draw.text((_PAD, self.y + 4), "who sees whom", _INK, font(18))
        self.y += 40
        self._mask(draw, found)
        self._legend(draw, _PAD + _MASK_SIZE + 70, self.y)
        self.y += _MASK_SIZE + 40

    def finish(self) -> Image.Image:
        """The canvas down to the last line."""
        return self.canvas.crop((0, 0, _WIDTH, self.y))

    def _room(self, height: int) -> ImageDraw.ImageDraw:
        if self.y + height > self.canvas.height:
            taller = Image.new("RGB", (_WIDTH, 2 * self.canvas.height + height), _PAPER)
            taller.paste(self.canvas)
            self.canvas = taller
        return ImageDraw.Draw(self.canvas)

    def _keys_by_stream(self) -> list[np.ndarray]:
        sizes = [len(self.row[name]) for name in ("text_ids", "vit_positions")]
        return np.split(self.row["vis_key"], np.cumsum(sizes))

    def _box(self, split: Split) -> _Box:
        words = split.stream == TEXT
        image = self._words(split) if words else self._picture(split)
        return _Box(image, split)

    def _words(self, split: Split) -> Image.Image:
        """A text turn: a chain of words on as many lines as it needs."""
        tokens = split.tokens.tolist()
        if len(tokens) > _MOST_WORDS:
            tokens = [*tokens[: _MOST_WORDS - 10], None, *tokens[-10:]]
        after = self._hand_over(split)
        placed, x, y = [], 10, 24
        for token in tokens:
            label = "..." if token is None else self._word(int(self.row["text_ids"][token]))
            width = max(16, round(length(label, 14)) + 8)
            if x + width > _WIDTH - 4 * _PAD - 90:
                x, y = 10, y + _WORD_HEIGHT + 6
            placed.append((token, label, x, y, width))
            x += width + 3
        widest = max(x + w for _, _, x, _, w in placed)
        tail = round(font(13).getlength(after)) + 16 if after else 0
        image, draw = _frame(split, max(widest + 10 + tail, 150), y + _WORD_HEIGHT + 10, self.row)
        for token, label, x, y, width in placed:
            if token is None:
                draw.text((x, y), label, _SOFT, font(14))
                continue
            control = int(self.row["text_ids"][token]) in self.names
            draw.rounded_rectangle((x, y, x + width, y + _WORD_HEIGHT - 4), 4, _CARD)
            middle = (x + width / 2, y + (_WORD_HEIGHT - 4) / 2)
            write(draw, middle, label, _SOFT if control else _INK, 14, centred=True)
            if self.row["text_weights"][token] > 0:
                draw.rectangle((x + 2, y + _WORD_HEIGHT - 3, x + width - 2, y + 20), _TEXT_LOSS)
        if after:
            _, _, x, y, width = placed[-1]
            draw.text((x + width + 8, y + 9), after, _TEXT_LOSS, font(13), anchor="lm")
        return image

    def _picture(self, split: Split) -> Image.Image:
        """An image copy: markers left and right of its tokens."""
        after = self._hand_over(split)
        tokens = split.tokens[1:-1]
        columns = splits.grid_width(self._positions(split.stream, tokens))
        tiles = self._tiles(split, tokens)
        grid = tiles.reshape(-1, columns, *tiles.shape[1:]).transpose(0, 2, 1, 3, 4)
        pixels = grid.reshape(grid.shape[0] * grid.shape[1], -1, 3)
        scale = _GRID / max(pixels.shape[:2])
        size = [max(4, round(edge * scale)) for edge in (pixels.shape[1], pixels.shape[0])]
        thumb = Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST)
        tail = round(font(13).getlength(after)) + 10 if after else 0
        kind = f"{len(tokens)} {'patches' if split.stream == VIT else 'latents'}"
        head = 20 + round(font(12).getlength(_caption(split, self.row)))
        width = max(size[0] + 84 + tail, round(font(13).getlength(kind)) + 24, head)
        image, draw = _frame(split, width, 24 + _GRID + 28, self.row)
        middle = 24 + _GRID / 2
        draw.text((26, middle), "img", _SOFT, font(13), anchor="mm")
        x, y = 44, 24 + (_GRID - size[1]) // 2
        image.paste(thumb, (x, y))
        if split.mode == visibility.NOISED:
            draw.rectangle((x - 3, y - 3, x + size[0] + 2, y + size[1] + 2), None, _FLOW_LOSS, 2)
        draw.text((x + size[0] + 20, middle), "/img", _SOFT, font(13), anchor="mm")
        if after:
            draw.text((x + size[0] + 38, middle), after, _TEXT_LOSS, font(13), anchor="lm")
        draw.text((10, 24 + _GRID + 8), kind, _SOFT, font(13))
        return image

    def _positions(self, stream: int, tokens: np.ndarray) -> np.ndarray:
        text, vit = len(self.row["text_ids"]), len(self.row["vit_positions"])
        if stream == VIT:
            return self.row["vit_positions"][tokens - text]
        return self.row["latent_positions"][tokens - text - vit]

    def _tiles(self, split: Split, tokens: np.ndarray) -> np.ndarray:
        """uint8 [n, side, side, 3]: pixels of ViT patches, false colours of latents."""
        text, vit = len(self.row["text_ids"]), len(self.row["vit_positions"])
        if split.stream == VIT:
            patches = self.row["vit_patches"][tokens - text]
            side = round((patches.shape[1] / 3) ** 0.5)
            return np.uint8((patches.reshape(-1, side, side, 3) * 0.5 + 0.5) * 255 + 0.5)
        places = tokens - text - vit
        latents = self.row["latents"]
        spread = np.abs(latents).max(0)[:3] + 1e-6
        colors = np.zeros((len(places), 3))
        colors[:, : latents.shape[1]] = latents[places][:, :3] / spread[: latents.shape[1]]
        colors = np.repeat((0.5 + 0.4 * colors)[:, None], 16, 1).reshape(-1, 4, 4, 3)
        t = _time(self.row["latent_logits"][places][:, None, None, None])
        noise = np.random.default_rng(0).uniform(0, 1, colors.shape)
        return np.uint8(np.clip((1 - t) * colors + t * noise, 0, 1) * 255)

    def _word(self, token: int) -> str:
        if token in self.names:
            return self.names[token]
        return (self.tokenizer.decode([token]).strip() or "_") if self.tokenizer else str(token)

    def _hand_over(self, split: Split) -> str:
        """Arrow to what the closing marker is taught to expect; "" without a label."""
        label = int(self.row["text_labels"][split.tokens[-1]])
        if label < 0:
            return ""
        what = {"bos": "text", "img": "image", "eos": "stop"}.get(self._word(label))
        return f"\u00bb {what or self._word(label)}"

    def _mask(self, draw: ImageDraw.ImageDraw, found: list[SampleSplits]) -> None:
        tokens = np.concatenate([sample.tokens for sample in found]) if found else np.zeros(0, int)
        parts = [self.row[f"vis_{name}"][tokens] for name in ("key", "lo", "hi", "own")]
        seen = visibility.dense(visibility.Visibility(*parts))
        streams = splits.streams_of(self.row)[tokens]
        table = np.array([_MASK[stream] for stream in (TEXT, VIT, LATENT)], np.uint8)
        colors = np.where(
            (parts[0] >= visibility.NOISE)[:, None], np.uint8(_MASK_NOISED), table[streams]
        )
        picture = np.where(seen[..., None], colors[None], np.uint8(_MASK_HIDDEN))
        x, y, size, bar = _PAD + 22, self.y, _MASK_SIZE, 10
        how = Image.Resampling.NEAREST if len(tokens) < size else Image.Resampling.BOX
        if len(tokens):
            image = Image.fromarray(picture.astype(np.uint8)).resize((size, size), how)
            strip = Image.fromarray(colors[None].astype(np.uint8))
            self.canvas.paste(image, (x, y))
            self.canvas.paste(strip.resize((size, bar), how), (x, y - bar - 3))
            self.canvas.paste(
                strip.transpose(Image.Transpose.ROTATE_270).resize((bar, size), how),
                (x - bar - 3, y),
            )
        draw.rectangle((x - 1, y - 1, x + size, y + size), None, _LINE)
        edge = 0
        for sample in found[:-1]:
            edge += len(sample.tokens)
            place = edge * size / len(tokens)
            draw.line((x, y + place, x + size, y + place), _SOFT)
            draw.line((x + place, y, x + place, y + size), _SOFT)
        draw.text((x, y + size + 8), "keys \u00bb", _SOFT, font(13))
        draw.text((x + size, y + size + 8), "queries go down", _SOFT, font(13), anchor="ra")

    def _legend(self, draw: ImageDraw.ImageDraw, x: int, y: int) -> None:
        streams = [
            (_hex(_MASK[TEXT]), "text, with the markers bos, eos, img, /img"),
            (_hex(_MASK[VIT]), "ViT patches: what the model understands of an image"),
            (_hex(_MASK[LATENT]), "clean latents: the image as context for drawing"),
            (_hex(_MASK_NOISED), "noised latents and their markers: seen by themselves only"),
            (_hex(_MASK_HIDDEN), "invisible"),
        ]
        draw.text((x, y), "colours of keys", _INK, font(16))
        for color, text in streams:
            y += 30
            draw.rounded_rectangle((x, y, x + 20, y + 20), 4, color, _LINE)
            draw.text((x + 32, y + 1), text, _INK, font(15))
        y += 50
        draw.text(
            (x, y), "splits (r: rotary position, t: flow time before the shift)", _INK, font(16)
        )
        rules = {
            visibility.CAUSAL: "each token sees what came before it",
            visibility.FULL: "all tokens of the split see each other",
            visibility.NOISED: "the same, and nothing later sees them",
        }
        for mode, rule in rules.items():
            y += 32
            name, color, fill = _MODES[mode]
            draw.rounded_rectangle((x, y, x + 72, y + 22), 5, fill, color)
            draw.text((x + 36, y + 11), name, color, font(14), anchor="mm")
            draw.text((x + 86, y + 2), rule, _INK, font(15))
        y += 54
        draw.text((x, y), "what is learned", _INK, font(16))
        draw.rectangle((x + 2, y + 46, x + 42, y + 49), _TEXT_LOSS)
        draw.text((x + 8, y + 28), "word", _INK, font(14))
        draw.text((x + 56, y + 30), "predicts the next token (cross entropy)", _INK, font(15))
        draw.text((x + 2, y + 62), "\u00bb image", _TEXT_LOSS, font(14))
        draw.text((x + 72, y + 61), "the marker is taught what comes next", _INK, font(15))
        draw.rectangle((x + 4, y + 96, x + 32, y + 124), "#e7ddf0", _FLOW_LOSS, 2)
        draw.text((x + 56, y + 101), "predicts the velocity (flow loss)", _INK, font(15))


def _frame(
    split: Split, width: int, height: int, row: Row
) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """An empty box in the colours of the split, with its mode and rotary position."""
    _, color, fill = _MODES[split.mode]
    if split.stream == VIT:
        color, fill = _VIT
    image = Image.new("RGB", (int(width), int(height)), _CARD)
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((0, 0, width - 1, height - 1), 8, fill, color)
    draw.text((10, 4), _caption(split, row), color, font(12))
    return image, draw


def _caption(split: Split, row: Row) -> str:
    first, last = (int(row["positions"][split.tokens[i]]) for i in (0, -1))
    text = f"{_MODES[split.mode][0]}  r {first}" + (f"-{last}" if last > first else "")
    if split.mode == visibility.NOISED:
        logit = row["latent_logits"][
            split.tokens[1] - len(row["text_ids"]) - len(row["vit_positions"])
        ]
        text += f"  t {_time(logit):.2f}"
    return text


def _time(logit):
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-np.asarray(logit, np.float64)))


def _wrapped(boxes: list[_Box], width: int) -> list[list[_Box]]:
    lines, used = [[]], 0
    for box in boxes:
        if lines[-1] and used + box.image.width > width:
            lines.append([])
            used = 0
        lines[-1].append(box)
        used += box.image.width + _GAP
    return lines


def _hex(color: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)
