"""What int8 and NF4 kernels cost a model of the world: its outputs, and its report.

    python launch/few_bits.py --checkpoint notebooks/demo --out runs/few_bits

Told are, for every kind, the relative L2 distance of velocities and logits on held-out packs from
those of weights in bfloat16, and the world's report beside that of the checkpoint as it is: the
same prompts, drawn from the same noise, compared prompt by prompt. Kernels are encoded and decoded
once, so all are drawn by one program, and quickly where decoding is slow. Verdicts are kept in
<out>/verdicts.json, part by part, so a run that was interrupted goes on.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from unireason_jax.evals.progress import Progress
from unireason_jax.evals.rates import mean_difference, mean_of_groups
from unireason_jax.evals.world import evaluation
from unireason_jax.inference import load
from unireason_jax.models import functional, quantized
from unireason_jax.models.sizes import QuantizedConfig
from unireason_jax.rules import flow
from unireason_jax.rules.visibility import Visibility
from unireason_jax.run.configuration import loss_config
from unireason_jax.run.run import Run
from unireason_jax.training import weights
from unireason_jax.training.optim import flatten, unflatten

KINDS = ("int8", "nf4")
WHOLE = "as it is"
Outputs = dict[str, np.ndarray]
Groups = dict[str, list[bool]]
Verdicts = dict[str, Groups]


def outputs(run: Run, params, batch) -> Outputs:
    """Logits of the supervised texts and velocities of the noised latents of a batch, float32."""
    shift = loss_config(run.config).timestep_shift

    @jax.jit
    def walk(params, batch):
        bagel = functional.bind(run.model, params)
        text = bagel.embed_text(batch["text_ids"])
        seen = (batch["vit_patches"], batch["vit_positions"], batch["vit_images"])
        und = jnp.concatenate([text, bagel.embed_vit(*seen)], axis=1)
        t = flow.timesteps(batch["latent_logits"], shift)
        x0, places = batch["latents"], batch["latent_positions"]
        noise = flow.token_noise(batch["noise_seeds"], places, x0.shape[-1])
        gen = bagel.embed_latents(flow.interpolate(x0, noise, t), t, places)
        found = Visibility(*(batch[f"vis_{name}"] for name in ("key", "lo", "hi", "own")))
        und, gen, _ = bagel.decode(und, gen, batch["positions"], found, keep_kv=False)
        return bagel.logits(und[:, : text.shape[1]]), bagel.velocity(gen)

    logits, velocity = walk(params, batch)
    found = {"logits": (logits, "text_weights"), "velocity": (velocity, "latent_weights")}
    return {k: np.asarray(v, np.float32)[batch[w] > 0] for k, (v, w) in found.items()}


def rounded(checkpoint: str, run: Run, kind: str | None):
    """Parameters whose layers' kernels are what few bits of them stand for; None leaves them."""
    params = weights.load_model(checkpoint, run.model)
    if kind is None:
        return params
    leaves = flatten(params)
    few = dataclasses.replace(run.model, quantized=QuantizedConfig(kind))
    for name, (lead, inputs) in functional.quantized_kernels(few).items():
        options = {"kind": kind, "lead": lead, "inputs": inputs}
        leaves[name] = quantized.decode(**quantized.encode(leaves[name], **options), **options)
    return unflatten(leaves)


def distances(checkpoint: str, batches: int) -> dict[str, dict[str, float]]:
    """By kind, the relative L2 distance of the outputs from those of weights in bfloat16."""
    run = Run.load(checkpoint)
    run = dataclasses.replace(run, model=dataclasses.replace(run.model, dtype="float32"))
    pipeline = run.pipeline(held_out=True, whole=True)
    packs = [next(pipeline) for _ in range(batches)]
    pipeline.close()
    whole = rounded(checkpoint, run, None)
    near = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(leaf.dtype), whole)
    wanted = [outputs(run, near, pack) for pack in packs]
    found = {}
    for kind in KINDS:
        params = rounded(checkpoint, run, kind)
        made = [outputs(run, params, pack) for pack in packs]
        found[kind] = {name: _relative(made, wanted, name) for name in wanted[0]}
    return found


def _relative(made: list[Outputs], wanted: list[Outputs], name: str) -> float:
    one, two = (np.concatenate([each[name] for each in all_]) for all_ in (made, wanted))
    return float(np.linalg.norm(one - two) / np.linalg.norm(two))


def report(checkpoint: str, parts: dict[str, int], file: Path) -> dict[str, Verdicts]:
    """Verdicts of the world's report by kind, `WHOLE` for the checkpoint as it is.

    A part that `file` holds is not asked again; what is, is written there at once.
    """
    none = dict.fromkeys(("controls", "pairs", "knowledge", "drafts"), 0) | {"rounds": 1}
    known = json.loads(file.read_text()) if file.exists() else {}
    run = Run.load(checkpoint)
    for kind in (WHOLE, *KINDS):
        missing = [name for name in parts if f"{kind}, {name} {parts[name]}" not in known]
        if missing:
            params = rounded(checkpoint, run, None if kind == WHOLE else kind)
            reasoner = load.around(run, params, load.usual_settings(run, checkpoint))
        for name in missing:
            sizes = evaluation.Sizes(**dict.fromkeys(parts, 0) | none | {name: parts[name]})
            advance = Progress(f"{kind}, {name}", sizes.cost(), "images at most")
            found = evaluation.evaluate(reasoner, sizes, advance=advance).outcomes
            known[f"{kind}, {name} {parts[name]}"] = found
            file.write_text(json.dumps(known) + "\n")
    return {
        kind: {k: v for part in parts for k, v in known[f"{kind}, {part} {parts[part]}"].items()}
        for kind in (WHOLE, *KINDS)
    }


def compared(verdicts: dict[str, Verdicts], kind: str) -> dict[str, dict]:
    """By rate, that of the checkpoint as it is and the difference, request by request."""
    whole, made = verdicts[WHOLE], verdicts[kind]
    return {
        name: {
            "as it is": mean_of_groups(whole[name]).to_dict(),
            "difference": mean_difference([made[name]], [whole[name]]).to_dict(),
            "lost": _moved(whole[name], made[name]),
            "won": _moved(made[name], whole[name]),
        }
        for name in whole
    }


def _moved(one: Groups, two: Groups) -> int:
    """Requests that `one` gets right and `two` wrong."""
    return sum(a and not b for group in one for a, b in zip(one[group], two[group], strict=True))


def main() -> None:
    """The comparison; writes <out>/few_bits.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--batches", type=int, default=1, help="held-out packs for the distances")
    parser.add_argument("--prompts", type=int, default=84, help="held-out prompts per tag (6)")
    parser.add_argument("--edits", type=int, default=48, help="instructions per operation (9)")
    parser.add_argument("--questions", type=int, default=48, help="questions per kind (9)")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    parts = {name: getattr(given, name) for name in ("prompts", "edits", "questions")}
    verdicts = report(given.checkpoint, parts, given.out / "verdicts.json")
    found = {"report": {kind: compared(verdicts, kind) for kind in KINDS}}
    for kind, rows in found["report"].items():
        for name, row in rows.items():
            print(f"{kind}, {name}: {_told(row)}", flush=True)
    found["relative L2"] = distances(given.checkpoint, given.batches)
    print(json.dumps(found["relative L2"], indent=1), flush=True)
    (given.out / "few_bits.json").write_text(json.dumps(found, indent=1) + "\n")


def _told(row: dict) -> str:
    whole, gap = row["as it is"], row["difference"]
    interval = f"[{gap['low']:+.4f}, {gap['high']:+.4f}]"
    moved = f"{row['lost']} lost, {row['won']} won of {gap['count']}"
    return f"{whole['value']:.3f} as it is, {gap['value']:+.4f} {interval}, {moved}"


if __name__ == "__main__":
    main()
