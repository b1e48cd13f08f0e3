"""The recorded training step of Janus-Pro: rows of text and codes, both losses, every gradient."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unireason_jax.models.janus import names, release
from unireason_jax.models.official_names import official_tensors
from unireason_jax.proof.janus import FORWARD, LOOSE, JanusGolden
from unireason_jax.proof.janus_network import causal
from unireason_jax.proof.verdicts import Report
from unireason_jax.rules.visibility import PADDING, Visibility
from unireason_jax.training import objective


class Step:
    """The recorded rows, permuted from true order to [text | vit | codes].

    Attributes:
      tensors: the recording.
      batch: the rows as the data pipeline packs them.
      place: [B, T] where each token of the true order is in the row.
    """

    def __init__(self, golden: JanusGolden):
        """Reads `train_step.safetensors`."""
        self.tensors, self.meta = golden.file("train_step")
        t = self.tensors
        mask, drawn = t["in.attention_mask"] > 0, t["in.gen_token_mask"]
        shown = t["in.images_seq_mask"]
        kinds = {"text": ~shown & ~drawn, "vit": shown, "code": drawn}
        length = {name: int(kind.sum(1).max()) for name, kind in kinds.items()}
        starts = dict(zip(kinds, np.cumsum([0, *length.values()])))
        rows, width = mask.shape
        self.place = np.zeros((rows, width), np.int64)
        for name, kind in kinds.items():
            self.place += kind * (starts[name] + np.cumsum(kind, axis=1) - 1)
        total = sum(length.values())
        self.true = np.full((rows, total), -1)
        for row in range(rows):
            self.true[row, self.place[row]] = np.arange(width)
        seen = causal(t["in.attention_mask"])
        positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
        side = golden.config.vit.side**2
        self.batch = {
            "text_ids": self._take(t["in.input_ids"], kinds["text"], length["text"], 0),
            "text_labels": self._take(t["in.text_labels"], kinds["text"], length["text"], -1),
            "text_weights": self._take(
                (t["in.text_labels"] >= 0).astype(np.float32), kinds["text"], length["text"], 0
            ),
            **self._vit(golden, t, shown, length["vit"], side),
            **self._codes(t, length["code"]),
            "positions": self._row(positions, 0),
            **{
                f"vis_{name}": self._row(np.asarray(value), -1 if name == "own" else PADDING)
                for name, value in zip(Visibility._fields, seen)
            },
        }

    def _take(self, values: np.ndarray, kind: np.ndarray, length: int, fill: float) -> jax.Array:
        """The values of one kind of tokens, to the left of rows of some length."""
        out = np.full((len(values), length), fill, values.dtype)
        for row, (value, chosen) in enumerate(zip(values, kind)):
            out[row, : chosen.sum()] = value[chosen]
        return jnp.asarray(out.astype(np.float32 if out.dtype.kind == "f" else np.int32))

    def _row(self, values: np.ndarray, fill: int) -> jax.Array:
        """Values of the true order in the order of the packed rows."""
        taken = np.take_along_axis(values, np.maximum(self.true, 0), axis=1)
        return jnp.asarray(np.where(self.true < 0, fill, taken), jnp.int32)

    def _vit(
        self, golden: JanusGolden, t: Any, shown: np.ndarray, length: int, side: int
    ) -> dict[str, jax.Array]:
        """The pictures of every row, one after another."""
        cut, places, _ = golden.patches(t["in.pixel_values_used"])
        rows = len(shown)
        patches = np.zeros((rows, length, cut.shape[-1]), np.float32)
        position, image = np.zeros((rows, length), np.int32), np.full((rows, length), -1, np.int32)
        picture = 0
        for row in range(rows):
            for number in range(shown[row].sum() // side):
                part = slice(number * side, (number + 1) * side)
                patches[row, part], position[row, part] = cut[picture], places[0]
                image[row, part] = number
                picture += 1
        found = {"patches": patches, "positions": position, "images": image}
        return {f"vit_{name}": jnp.asarray(value) for name, value in found.items()}

    def _codes(self, t: Any, length: int) -> dict[str, jax.Array]:
        """The codes of every row, with what predicts each: the token before it in true order."""
        drawn = t["in.gen_token_mask"]
        shape = (len(drawn), length)
        codes, before = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        weights, given = np.zeros(shape, np.float32), iter(t["in.gen_codes"])
        for row in np.flatnonzero(drawn.any(1)):
            at = np.flatnonzero(drawn[row])
            codes[row, : len(at)] = next(given)
            before[row, : len(at)] = self.place[row, at - 1]
            weights[row, : len(at)] = t["in.image_labels"][row, at - 1] >= 0
        found = {"ids": codes, "weights": weights, "from": before}
        return {f"code_{name}": jnp.asarray(value) for name, value in found.items()}


def compare_step(golden: JanusGolden, report: Report) -> None:
    """Hidden states, logits and losses of the recorded rows."""
    step = Step(golden)
    t, batch = step.tensors, step.batch

    def forward(params: Any) -> dict[str, jax.Array]:
        model = golden.model(params)
        streams = [
            model.embed_text(batch["text_ids"]),
            model.embed_vit(batch["vit_patches"], batch["vit_positions"], batch["vit_images"]),
            model.embed_codes(batch["code_ids"]),
        ]
        row = jnp.concatenate(streams, axis=1)
        seen = Visibility(*(batch[f"vis_{name}"] for name in Visibility._fields))
        hidden, _, _ = model.decode(row, row[:, :0], batch["positions"], seen, keep_kv=False)
        place = step.place[..., None]
        inputs, true = (jnp.take_along_axis(x, place, axis=1) for x in (row, hidden))
        real = t["in.attention_mask"][..., None]
        text, image = t["in.text_labels"] >= 0, t["in.image_labels"] >= 0
        text_logits, image_logits = model.logits(true[text]), model.code_logits(true[image])
        return {
            "inputs_embeds_gen_rows": (inputs * real)[t["in.gen_token_mask"].any(1)],
            "hidden_final": true * real,
            "text_logits": text_logits,
            "image_logits": image_logits,
            "text_ce_per_token": _entropy(text_logits, t["in.text_labels"][text]),
            "image_ce_per_token": _entropy(image_logits, t["in.image_labels"][image]),
        }

    found = jax.jit(forward)(golden.params)
    for pooled, name in ((True, "loss_pooled_mean"), (False, "loss_sum_of_means")):
        metrics = _loss(golden, batch, pooled)(golden.params)[0][1]
        found[name] = metrics["loss"].reshape(1)
    found["text_ce_mean"] = metrics["loss/ce"].reshape(1)
    found["image_ce_mean"] = metrics["loss/code"].reshape(1)
    for name, value in found.items():
        report.add("train_step", f"out.{name}", value, t[f"out.{name}"], limit=FORWARD)


def compare_gradients(golden: JanusGolden, report: Report) -> None:
    """Every recorded gradient of either reduction; parameters without one have none here either."""
    step = Step(golden)
    for pooled, prefix in ((True, "grad_pooled."), (False, "grad_sum.")):
        grads = _loss(golden, step.batch, pooled)(golden.params)[1]
        found = release.official(golden.config, official_tensors(golden.config, grads))
        for key in sorted(name for name in step.tensors if name.startswith(prefix)):
            value = found[key.removeprefix(prefix)]
            report.add("train_step", key, value, step.tensors[key], limit=LOOSE)
    report.exclude("train_step", f"{names.POOL}*", "not in the graph, and not part of the model")


def _loss(golden: JanusGolden, batch: Any, pooled: bool) -> Any:
    """The objective's value and gradient, as a function of the parameters."""
    settings = objective.LossConfig(pooled=pooled)

    def value(params: Any) -> Any:
        return objective.loss_fn(params, batch, model=golden.config, loss=settings)

    return jax.jit(jax.value_and_grad(value, has_aux=True))


def _entropy(logits: jax.Array, labels: np.ndarray) -> jax.Array:
    """Cross entropy of every token."""
    chosen = jnp.take_along_axis(logits, jnp.asarray(labels)[:, None], axis=-1)[:, 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen
