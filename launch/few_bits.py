"""What int8 and NF4 kernels cost a model of the world: its outputs, and its report.

    python launch/few_bits.py --checkpoint notebooks/demo --out runs/few_bits

Told are, for every kind, the relative L2 distance of velocities and logits on held-out packs from
those of weights in bfloat16, and the world's report beside that of the checkpoint as it is: the
same prompts, drawn from the same noise, compared prompt by prompt.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import unireason_jax
from unireason_jax.evals.progress import Progress
from unireason_jax.evals.rates import Rate, mean_difference
from unireason_jax.evals.world import evaluation
from unireason_jax.models import functional
from unireason_jax.models.sizes import QuantizedConfig
from unireason_jax.rules import flow
from unireason_jax.rules.visibility import Visibility
from unireason_jax.run.configuration import loss_config
from unireason_jax.run.run import Run
from unireason_jax.training import weights

KINDS = ("int8", "nf4")
Outputs = dict[str, np.ndarray]


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


def distances(checkpoint: str, batches: int) -> dict[str, dict[str, float]]:
    """By kind, the relative L2 distance of the outputs from those of weights in bfloat16."""
    run = Run.load(checkpoint)
    run = dataclasses.replace(run, model=dataclasses.replace(run.model, dtype="float32"))
    pipeline = run.pipeline(held_out=True, whole=True)
    packs = [next(pipeline) for _ in range(batches)]
    pipeline.close()
    whole = weights.load_model(checkpoint, run.model)
    near = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(leaf.dtype), whole)
    wanted = [outputs(run, near, pack) for pack in packs]
    found = {}
    for kind in KINDS:
        model = dataclasses.replace(run.model, quantized=QuantizedConfig(kind))
        few = dataclasses.replace(run, model=model)
        params = weights.load_model(checkpoint, model)
        made = [outputs(few, params, pack) for pack in packs]
        found[kind] = {name: _relative(made, wanted, name) for name in wanted[0]}
    return found


def _relative(made: list[Outputs], wanted: list[Outputs], name: str) -> float:
    one, two = (np.concatenate([each[name] for each in all_]) for all_ in (made, wanted))
    return float(np.linalg.norm(one - two) / np.linalg.norm(two))


def outcomes(checkpoint: str, sizes: evaluation.Sizes, kind: str | None):
    """Verdicts of the world's report."""
    reasoner = unireason_jax.load(checkpoint, weights_dtype=kind)
    advance = Progress(kind or "as it is", sizes.cost(), "images at most")
    return evaluation.evaluate(reasoner, sizes, advance=advance).outcomes


def main() -> None:
    """The comparison; writes <out>/few_bits.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--batches", type=int, default=4, help="held-out packs for the distances")
    parser.add_argument("--prompts", type=int, default=84, help="held-out prompts per tag")
    parser.add_argument("--edits", type=int, default=24, help="instructions per operation")
    parser.add_argument("--questions", type=int, default=24, help="questions per kind")
    given = parser.parse_args()
    parts = {name: getattr(given, name) for name in ("prompts", "edits", "questions")}
    none = dict.fromkeys(("controls", "pairs", "knowledge", "drafts"), 0)
    sizes = evaluation.Sizes(**parts, **none, rounds=1)
    found = {"relative L2": distances(given.checkpoint, given.batches), "report": {}}
    print(json.dumps(found["relative L2"], indent=1), flush=True)
    given.out.mkdir(parents=True, exist_ok=True)
    whole = outcomes(given.checkpoint, sizes, None)
    for kind in KINDS:
        made = outcomes(given.checkpoint, sizes, kind)
        rows = {name: mean_difference([made[name]], [whole[name]]) for name in whole}
        found["report"][kind] = {name: rate.to_dict() for name, rate in rows.items()}
        for name, rate in rows.items():
            print(f"{kind}, {name}: {_signed(rate)}", flush=True)
        (given.out / "few_bits.json").write_text(json.dumps(found, indent=1) + "\n")


def _signed(rate: Rate) -> str:
    return f"{rate.value:+.3f} [{rate.low:+.3f}, {rate.high:+.3f}] of {rate.count}"


if __name__ == "__main__":
    main()
