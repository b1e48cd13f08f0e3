"""`unireason bench VERB`: what packing fills, and what a step, a text and an image cost, as JSON.

    unireason bench packing                       three mixtures, 50,000 records each
    unireason bench loader                        the quickstart's pipeline, beside its step
    unireason bench prepare --records 100000      made-up rows to shards: records a second, memory
    unireason bench train --size small            the step of the official code's CPU baseline
    unireason bench train --size small --threads 1 2 --dtype bfloat16 --json out.json
    unireason bench step --config FILE            a recipe's step on the devices here: MFU
    unireason bench attention --config FILE       one layer's attention on a full row, by backend
    unireason bench convert --layers 4            a release of true width in and out, peak memory
    unireason bench decode --batch 1 8            greedy text, at the sizes of that baseline
    unireason bench decode --text sampled nucleus    what choosing by chance costs
    unireason bench image --guidance text_image   a guided image, likewise
    unireason bench serve --rates 0.5 1 2 4       a server under load: first words, first image, end
    unireason bench start --checkpoint DIR        a server's start, to its first image
    unireason bench image --cache none taylor     with and without a step cache, likewise
    unireason bench image --timesteps 7 --solver ab2 --batch 1 8    few steps, images together
    unireason bench codes --variant janus_pro_1b     operations of a picture of codes
    unireason bench quality --checkpoint DIR      what faster drawing costs in the world
    unireason bench rollouts --checkpoint DIR     of `unireason rl`, beside drawing for show
    unireason bench calls                         a call over HTTP, beside a bare client's
    unireason bench stages RUN1 RUN2              what a step of two runs costs, and their ratio

Results are printed, one JSON object a line, and written to `--json FILE` as a list.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from unireason_jax.storage import atomic

MIXTURES = ("quickstart", "world", "stage2")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(
        prog="unireason bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = root.add_subparsers(dest="verb", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", type=Path, metavar="FILE", help="also write the results here")
    common.add_argument("--seed", type=int, default=0)

    packing = verbs.add_parser("packing", parents=[common], help="fill by stream, packs a second")
    packing.add_argument("--mixture", choices=(*MIXTURES, "all"), default="all")
    packing.add_argument("--records", type=int, default=50_000)
    packing.add_argument("--tokens-per-row", type=int, help="wished row length")
    packing.add_argument("--window", type=int, default=512, help="open records of the planner")

    prepare = verbs.add_parser("prepare", parents=[common], help="records a second, memory")
    prepare.add_argument("--records", type=int, default=20_000)
    prepare.add_argument("--workers", type=int, default=0, help="processes that convert")

    loader = verbs.add_parser("loader", parents=[common], help="tokens a second, beside the step's")
    loader.add_argument("--config", default="configs/quickstart.py", metavar="FILE")
    loader.add_argument("--records", type=int, default=4000, help="records an epoch")
    loader.add_argument("--rows", type=int, help="rows of a batch")
    loader.add_argument("--batches", type=int, default=200, help="timed batches")
    loader.add_argument("--steps", type=int, default=10, help="timed steps; 0 for none")
    loader.add_argument("--workers", type=int, default=0, help="processes that render")

    train = verbs.add_parser("train", parents=[common], help="seconds of a training step")
    train.add_argument("--size", choices=("small", "small_vit", "nano"), default="small")
    train.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    train.add_argument("--full", action="store_true", help="with remat, clipping and EMA")
    train.add_argument("--steps", type=int, default=20, help="timed steps")
    train.add_argument("--warmup", type=int, default=2, help="steps before them")
    train.add_argument(
        "--threads", type=int, nargs="+", help="CPU cores to use; several give one run each"
    )

    recipe = argparse.ArgumentParser(add_help=False, parents=[common])
    recipe.add_argument("--config", default="configs/unireason_stage2.py", metavar="FILE")
    recipe.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="config leaves")
    recipe.add_argument("--tokens-per-row", type=int, default=16_384)

    step = verbs.add_parser("step", parents=[recipe], help="a recipe's step on full rows: MFU")
    step.add_argument("--steps", type=int, default=10, help="timed steps")
    step.add_argument("--matmul", type=int, default=8192, help="size of the ceiling's matrices")
    step.add_argument("--profile", metavar="FOLDER", help="record one more step here")

    attention = verbs.add_parser("attention", parents=[recipe], help="one layer's attention")
    attention.add_argument("--backend", nargs="*", default=["flash", "chunked"])
    attention.add_argument("--sweep", action="store_true", help="also tiles of the GPU kernels")
    attention.add_argument("--repeats", type=int, default=10, help="timed calls")

    convert = verbs.add_parser("convert", parents=[common], help="peak memory of a conversion")
    convert.add_argument("--variant", default="bagel_7b_mot", help="whose width")
    convert.add_argument("--layers", type=int, default=4, help="of the language model; 0 for all")
    convert.add_argument("--folder", type=Path, help="for the files meanwhile: twice their size")

    for verb, about in (("decode", "seconds of a text"), ("image", "seconds of an image")):
        drawn = verbs.add_parser(verb, parents=[common], help=about)
        drawn.add_argument("--size", choices=("small", "nano"), default="small")
        drawn.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
        drawn.add_argument("--batch", type=int, nargs="+", default=[1], help="rows; one run each")
        drawn.add_argument("--repeats", type=int, default=3, help="timed runs")
        if verb == "decode":
            ways = ("greedy", "sampled", "nucleus")
            about = "how tokens are chosen; one run each"
            drawn.add_argument("--text", choices=ways, nargs="+", default=["greedy"], help=about)
        if verb == "image":
            drawn.add_argument("--guidance", choices=("text", "text_image"), default="text")
            drawn.add_argument("--timesteps", type=int, nargs="+", default=[20], help="steps + 1")
            ways = ("euler", "ab2", "dpmpp_2m")
            drawn.add_argument("--solver", choices=ways, nargs="+", default=["euler"])
            ways = ("none", "taylor", "taylor2")
            drawn.add_argument("--cache", choices=ways, nargs="+", default=["none"])

    codes = verbs.add_parser("codes", parents=[common], help="operations of a picture of codes")
    codes.add_argument("--variant", nargs="+", default=["janus_pro_1b"], help="one run each")
    codes.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    codes.add_argument("--batch", type=int, default=1, help="pictures drawn together")
    codes.add_argument("--repeats", type=int, default=0, help="timed drawings; 0 only counts")

    quality = verbs.add_parser("quality", parents=[common], help="the price of faster drawing")
    quality.add_argument("--checkpoint", required=True, help="--workdir of a run on the world")
    about = "of drawing, or runs (students); others are compared with the first (quality.WAYS)"
    quality.add_argument("--ways", nargs="+", default=["exact", "fast", "few"], help=about)
    quality.add_argument(
        "--prompts", type=int, default=32, help="held-out prompts per tag (6 tags)"
    )
    quality.add_argument("--batch", type=int, default=64, help="conversations at a time")

    serve = verbs.add_parser("serve", parents=[common], help="a server under growing load")
    serve.add_argument("--checkpoint", default="notebooks/demo", help="is served for this")
    serve.add_argument("--address", help="of a server that runs already, http://host:port")
    serve.add_argument("--model", default="unireason", help="a preset, as the server names it")
    about = "requests a second; one run each"
    serve.add_argument("--rates", type=float, nargs="+", default=[0.5, 1, 2, 4], help=about)
    serve.add_argument("--seconds", type=float, default=20, help="requests come for so long")
    serve.add_argument("--rows", type=int, default=4, help="conversations at a time")

    rolled = verbs.add_parser("rollouts", parents=[common], help="a rollout, beside drawing")
    rolled.add_argument("--checkpoint", required=True, help="--workdir of the model")
    rolled.add_argument("--config", default="configs/rl_hard.py:small", help="of unireason rl")
    rolled.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="config leaves")
    rolled.add_argument("--iterations", type=int, default=3, help="timed ones")

    start = verbs.add_parser("start", parents=[common], help="a server's start, to an image")
    start.add_argument("--checkpoint", default="notebooks/demo", help="is served for this")
    start.add_argument("--starts", type=int, default=5, help="that count; one goes before")
    start.add_argument("--unwarmed", action="store_true", help="without --warm of `serve`")

    calls = verbs.add_parser("calls", parents=[common], help="what a call over HTTP costs")
    calls.add_argument("--calls", type=int, default=1_000, help="of a round")
    calls.add_argument("--in_flight", type=int, default=200, help="at a time")
    calls.add_argument("--seconds", type=float, default=0.05, help="that an answer takes")
    calls.add_argument("--rounds", type=int, default=3, help="the best counts")

    stages = verbs.add_parser("stages", parents=[common], help="what a step of a run costs")
    stages.add_argument("runs", nargs="+", type=Path, help="directories of training runs")
    return root


def bench_packing(args: argparse.Namespace) -> list[dict]:
    """All mixtures, or the one asked for."""
    from unireason_jax.speed import packing

    names = MIXTURES if args.mixture == "all" else (args.mixture,)
    settings = {"row": args.tokens_per_row, "window": args.window, "seed": args.seed}
    return [packing.run(name, records=args.records, **settings) for name in names]


def bench_prepare(args: argparse.Namespace) -> list[dict]:
    """Made-up rows through `unireason prepare`, in a temporary folder."""
    from unireason_jax.speed import prepare

    if args.records < 10:
        raise ValueError(f"--records {args.records}: give 10 or more")
    with tempfile.TemporaryDirectory() as folder:
        settings = {"records": args.records, "workers": args.workers, "seed": args.seed}
        return [prepare.run(Path(folder), **settings)]


def bench_loader(args: argparse.Namespace) -> list[dict]:
    """A config's records through measuring, planning, rendering and assembling; and its step."""
    from unireason_jax.run import configuration
    from unireason_jax.speed import loader

    given = {"data.examples": args.records, "data.rows": args.rows}
    given |= {"data.workers": args.workers, "data.seed": args.seed}
    wanted = {key: value for key, value in given.items() if value is not None}
    config = configuration.load(args.config, wanted)
    return [loader.run(config, batches=args.batches, steps=args.steps)]


def bench_train(args: argparse.Namespace) -> list[dict]:
    """One run in this process, or one process for each number of threads."""
    threads = args.threads or [None]
    if len(threads) > 1:
        return [_train_in_process(args, number) for number in threads]
    cores = limit_cores(threads[0])
    from unireason_jax.speed import train

    settings = {"dtype": args.dtype, "full": args.full, "steps": args.steps}
    found = train.run(args.size, warmup=args.warmup, **settings)
    return [found | {"threads": cores}]


def bench_step(args: argparse.Namespace) -> list[dict]:
    """One recipe, with leaves overridden as `--config.KEY=VALUE` does in training."""
    from unireason_jax.speed import step

    sizes = {"tokens": args.tokens_per_row, "steps": args.steps, "matmul": args.matmul}
    return [step.run(args.config, _leaves(args), profile=args.profile, **sizes)]


def bench_attention(args: argparse.Namespace) -> list[dict]:
    """Backends, and plans of the GPU kernels, on one row."""
    from unireason_jax.speed import attention

    settings = {"backends": args.backend, "sweep": args.sweep, "repeats": args.repeats}
    settings |= {"tokens": args.tokens_per_row, "seed": args.seed}
    return attention.run(args.config, _leaves(args), **settings)


def _leaves(args: argparse.Namespace) -> dict[str, Any]:
    """The config leaves of `--set`."""
    pairs = (word.partition("=")[::2] for word in args.set)
    return {key: _value(text) for key, text in pairs}


def _value(text: str) -> Any:
    """A number or boolean if it reads like one, else the text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def bench_convert(args: argparse.Namespace) -> list[dict]:
    """One release, in and out."""
    from unireason_jax.speed import convert

    return [convert.run(args.variant, layers=args.layers or None, folder=args.folder)]


def bench_decode(args: argparse.Namespace) -> list[dict]:
    """One run for each way to choose tokens and number of rows."""
    from unireason_jax.speed import sampling

    settings = {"dtype": args.dtype, "repeats": args.repeats}
    return [
        sampling.decode(args.size, batch=batch, text=text, **settings)
        for text in args.text
        for batch in args.batch
    ]


def bench_image(args: argparse.Namespace) -> list[dict]:
    """One run for each number of rows, solver, cache and number of steps."""
    from unireason_jax.speed import sampling

    settings = {"dtype": args.dtype, "guidance": args.guidance, "repeats": args.repeats}
    usual = {"timesteps": 20, "solver": "euler", "cache": "none"}
    found = []
    for values in itertools.product(args.batch, args.timesteps, args.solver, args.cache):
        batch, drawing = values[0], dict(zip(usual, values[1:]))
        drawing = {name: value for name, value in drawing.items() if value != usual[name]}
        found.append(sampling.image(args.size, batch=batch, **drawing, **settings))
    return found


def bench_codes(args: argparse.Namespace) -> list[dict]:
    """One run for each variant."""
    from unireason_jax.speed import codes

    settings = {"dtype": args.dtype, "batch": args.batch, "repeats": args.repeats}
    return [codes.run(name, **settings) for name in args.variant]


def bench_quality(args: argparse.Namespace) -> list[dict]:
    """One row for each way of drawing."""
    from unireason_jax.speed import quality

    sizes = {"count": args.prompts, "batch": args.batch, "seed": args.seed}
    return quality.run(args.checkpoint, args.ways, **sizes)


def bench_serve(args: argparse.Namespace) -> list[dict]:
    """One run for each rate, against a server that runs or one of its own."""
    from unireason_jax.speed import serve

    if min(args.rates) <= 0 or args.seconds <= 0:
        raise ValueError("--rates and --seconds must be > 0")
    load = {"seconds": args.seconds, "model": args.model, "seed": args.seed}
    load["key"] = os.environ.get("UNIREASON_KEY", "")
    if args.address:
        return serve.run(args.address.rstrip("/"), args.rates, **load)
    from unireason_jax.inference.load import load as loaded
    from unireason_jax.server import process

    with process.running(loaded(args.checkpoint), rows=args.rows) as (address, _):
        return serve.run(address, args.rates, **load)


def bench_rollouts(args: argparse.Namespace) -> list[dict]:
    """One row: both ways, in turns."""
    from unireason_jax.speed import rollouts

    sizes = {"iterations": args.iterations, "seed": args.seed}
    return [rollouts.run(args.checkpoint, args.config, _leaves(args), **sizes)]


def bench_start(args: argparse.Namespace) -> list[dict]:
    """Servers of a checkpoint, one after another."""
    from unireason_jax.speed import start

    if args.starts < 1:
        raise ValueError(f"--starts {args.starts}: give 1 or more")
    return [start.run(args.checkpoint, warm=not args.unwarmed, starts=args.starts)]


def bench_calls(args: argparse.Namespace) -> list[dict]:
    """One row: our client and a bare one, in turns."""
    from unireason_jax.endpoints import call_cost

    sizes = {"calls": args.calls, "in_flight": args.in_flight, "rounds": args.rounds}
    return [call_cost.run(seconds=args.seconds, **sizes)]


def bench_stages(args: argparse.Namespace) -> list[dict]:
    """Costs of every run; of two runs also their ratio."""
    from unireason_jax.speed import stages

    found = [stages.run(workdir) for workdir in args.runs]
    return [*found, stages.ratios(*found)] if len(found) == 2 else found


def limit_cores(count: int | None) -> int:
    """Binds this process to `count` cores (before JAX sizes its thread pool); None: as it is.

    Returns the number of cores.

    Raises:
      ValueError: more cores than there are, or a platform that cannot bind.
    """
    if not hasattr(os, "sched_setaffinity"):
        if count is not None:
            raise ValueError("--threads needs Linux: this platform cannot bind cores; leave it out")
        return os.cpu_count() or 1
    cores = sorted(os.sched_getaffinity(0))
    if count is None:
        return len(cores)
    if not 1 <= count <= len(cores):
        raise ValueError(f"--threads {count}: this process may use 1 to {len(cores)} cores")
    os.sched_setaffinity(0, cores[:count])
    return count


def _train_in_process(args: argparse.Namespace, threads: int) -> dict:
    command = [sys.executable, "-m", "unireason_jax.bench", "train", "--size", args.size]
    command += ["--dtype", args.dtype, "--steps", str(args.steps), "--warmup", str(args.warmup)]
    command += ["--threads", str(threads), *(["--full"] if args.full else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments: list[str] | None = None) -> list[dict]:
    """Runs the benchmark that the arguments name; prints, writes and returns the results."""
    args = parser().parse_args(arguments)
    benches = {
        "packing": bench_packing,
        "prepare": bench_prepare,
        "loader": bench_loader,
        "train": bench_train,
        "step": bench_step,
        "attention": bench_attention,
        "convert": bench_convert,
    }
    benches |= {"decode": bench_decode, "image": bench_image, "codes": bench_codes}
    benches |= {"quality": bench_quality, "rollouts": bench_rollouts}
    benches |= {"serve": bench_serve, "start": bench_start}
    benches |= {"calls": bench_calls, "stages": bench_stages}
    try:
        results = benches[args.verb](args)
    except (ValueError, FileNotFoundError, subprocess.CalledProcessError) as error:
        sys.exit(f"unireason bench {args.verb}: {error}")
    for result in results:
        print(json.dumps(result), flush=True)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(args.json, json.dumps(results, indent=1) + "\n")
    return results


if __name__ == "__main__":
    main()
