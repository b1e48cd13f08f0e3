"""Trains a model from a config, and goes on where it stopped.

    python -m unireason_jax.train --config=configs/tiny.py --workdir=runs/tiny
    ... --config.optim.lr=1e-3      overrides any leaf of the config
    ... --sweep_index=2             applies entry 2 of the config's sweep()
    ... --dry_run                   says what would happen, trains nothing

Where the weights come from, first match wins:
  1. a sound checkpoint in --workdir: the same run goes on, bit for bit on the same mesh;
  2. --config.resume_from: the whole state of another run;
  3. --config.init_from: weights of another run or of converted files, fresh optimizer;
  4. --config.init_from=scratch: random weights. This has to be said.
On SIGTERM the run saves and exits with status 0; start the same command again to go on.
"""

import contextlib
import functools
from typing import Any

import jax
from absl import app, flags, logging
from etils import epath
from ml_collections import ConfigDict, config_flags

from unireason_jax.data.pipeline import Pipeline
from unireason_jax.evals.loss import LossEvaluator
from unireason_jax.models import functional
from unireason_jax.models.archive import ArchiveError
from unireason_jax.pictures import packed_row
from unireason_jax.pods import batches, pod, sharding
from unireason_jax.pods.preemption import StopSignal
from unireason_jax.pods.watchdog import Watchdog
from unireason_jax.run import compile_cache, configuration, corpus, forecast, kept, overrides
from unireason_jax.run.configuration import ConfigError
from unireason_jax.run.run import Run
from unireason_jax.storage import atomic
from unireason_jax.training import checkpoint, metrics, state
from unireason_jax.training.checkpoint import Checkpoints
from unireason_jax.training.goodput import Ledger
from unireason_jax.training.optim import merge
from unireason_jax.training.state import TrainState
from unireason_jax.training.writers import Writers

CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, e.g. configs/tiny.py.")
WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run; an existing run goes on.")
START_OVER = flags.DEFINE_bool(
    "start_over", False, "Begin anew where every checkpoint in --workdir is damaged."
)
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print what would happen and draw a pack.")
SWEEP_INDEX = flags.DEFINE_integer("sweep_index", None, "Entry of the config's sweep().")


_REASONS = 3  # of records that cannot be used, told by a dry run


class TrainingDiverged(RuntimeError):
    """Too many updates in a row had to be skipped."""


def main(argv: list[str]) -> None:
    """Joins the pod, settles the config, and trains (or says what it would do)."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}; flags start with --.")
    if CONFIG.value is None or not WORKDIR.value:
        raise app.UsageError("--config=<file> and --workdir=<directory> are needed.")
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # libraries only when something is wrong
    workdir = epath.Path(WORKDIR.value)
    joined = sharding.initialize_distributed() > 1
    compile_cache.share(workdir / "compiled" if joined else None)
    with pod.ending_together():
        attempt(CONFIG.value, workdir)


def attempt(config: ConfigDict, workdir: epath.Path) -> None:
    """One process's part of the job; what the user can mend becomes one line, not a traceback."""
    with contextlib.ExitStack() as stack:
        _attempt(config, workdir, stack)


def _attempt(config: ConfigDict, workdir: epath.Path, stack: contextlib.ExitStack) -> None:
    """`attempt` within what is held until it ends."""
    try:
        if SWEEP_INDEX.value is not None:
            path = config_flags.get_config_filename(flags.FLAGS["config"])
            workdir /= configuration.apply_sweep(config, path, SWEEP_INDEX.value)
        if not DRY_RUN.value:
            stack.enter_context(pod.holding(workdir, "unireason train"))
        missing = corpus.absent(config) if DRY_RUN.value else []
        run = Run.of(config, has_records=not missing).settled()
        pipeline = None if missing else run.pipeline(workdir=workdir, dry_run=DRY_RUN.value)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"error: {error}") from error
    if DRY_RUN.value:
        for path in missing:
            print(f"{path} is not there: no packs are planned or drawn")
        dry_run(run, pipeline, workdir)
        return
    try:
        train(run, pipeline, workdir, start_over=START_OVER.value)
    except (
        ConfigError,
        ArchiveError,
        OSError,
        checkpoint.CheckpointFailed,
        checkpoint.CheckpointMismatch,
        checkpoint.CheckpointMissing,
    ) as error:
        raise SystemExit(f"error: {error}") from error


def starting_state(
    run: Run, checkpoints: Checkpoints
) -> tuple[TrainState, dict[str, Any] | None, str]:
    """(state, what else was saved with it or None, where it came from); see the file's top."""
    config = run.config
    if checkpoints.saved is not None:
        loaded = checkpoints.load(run.abstract)
        return *loaded, f"own checkpoint of step {int(loaded[0].step)}"
    if config.resume_from:
        loaded = checkpoint.load_state(config.resume_from, run.abstract)
        return *loaded, f"{config.resume_from} at step {int(loaded[0].step)}"
    if not config.init_from:
        raise ConfigError(
            "where do the weights come from? Set --config.init_from to a run, or to 'scratch' "
            "for random weights; or --config.resume_from to go on with another run."
        )
    if config.init_from == "scratch":
        key = jax.random.key(config.seed)
        init = functools.partial(functional.init, run.model, key)
        return state.initialize(init, run.optimizer, run.shardings), None, "random weights"
    params = checkpoint.load_params(
        config.init_from,
        which=config.init_which,
        expected=run.abstract.params,
        shardings=run.shardings.params,
        dtype="float32",
    )
    made = state.adopt(params, run.optimizer, run.shardings)
    return made, None, f"{config.init_which} weights of {config.init_from}"


def held_out_loss(run: Run) -> LossEvaluator | None:
    """The evaluator of the training loss on held-out packs, or None when it is switched off."""
    if not run.config.eval.every:
        return None
    pipeline = run.pipeline(held_out=True)
    batches = [next(pipeline) for _ in range(run.config.eval.batches)]
    pipeline.close()
    return LossEvaluator(batches, mesh=run.mesh, model=run.model, loss=run.loss)


def train(
    run: Run, pipeline: Pipeline, workdir: epath.Path, *, start_over: bool = False
) -> TrainState:
    """The whole run, in the order the machine lives it; returns the last state.

    Args:
      run: what is trained.
      pipeline: this process's part of its batches; closed in the end.
      workdir: its directory.
      start_over: begin anew where every checkpoint there is damaged.
    """
    config, lead = run.config, jax.process_index() == 0
    workdir.mkdir(parents=True, exist_ok=True)
    with (
        jax.set_mesh(run.mesh),
        StopSignal() as stop,
        Watchdog(config.train.hang_seconds, give_up=pod.fail) as watchdog,
        Checkpoints(
            workdir,
            keep=config.train.keep,
            keep_every=config.train.keep_every,
            hashes=config.train.hash_checkpoints,
            start_over=start_over,
        ) as checkpoints,
    ):
        watchdog.note("loading or drawing the weights")
        current, saved, origin = starting_state(run, checkpoints)
        start, steps = int(current.step), config.train.steps
        if lead:
            run.save(workdir)
            count = functional.count(run.abstract.params)
            print(run_lines(run))
            print(f"{count:,} parameters from {origin}; step {start} to {steps}", flush=True)
        peak = metrics.peak_flops()
        meter = metrics.Meter(peak and peak * jax.device_count())
        if saved:
            pipeline.set_state(saved["data"])
            meter.restore(saved["meter"])
            pipeline.restore(saved.get("totals"))
        writers = Writers(
            workdir,
            start=start,
            total=steps,
            tensorboard=config.train.tensorboard,
            wandb=config.train.wandb,
            config=configuration.plain(config),
        )
        ledger = Ledger(workdir, start)
        profiler = metrics.Profiler(config.train.profile, workdir)
        evaluator = held_out_loss(run)

        def evaluate(step: int) -> None:
            watchdog.note(f"evaluation at step {step}")
            with meter.clock("eval"):
                averaged = merge(current.ema, current.params) if current.ema else current.params
                writers.write(step, evaluator(averaged))

        def save(step: int) -> None:
            watchdog.note(f"checkpoint of step {step}")
            with meter.clock("checkpoint"):
                position = {"data": pipeline.get_state(), "meter": meter.state()}
                position |= {"totals": pipeline.totals()}
                checkpoints.save(step, current, position)

        if start < steps:
            watchdog.pause()  # a large model compiles for long, and says so
            with meter.clock("compile"):
                train_step = run.compile_step(pipeline.batch_spec())
        stopped = False
        for step in range(start, steps):
            # Evaluate with the old weights, save, draw the next batch, step: in this order, so
            # that a checkpoint holds weights and the batch they have not seen yet.
            if evaluator and due(step, config.eval.every) and step > start:
                evaluate(step)
            if due(step, config.train.save_every) and step > start:
                save(step)
            if stopped := stop.reached(step):
                break
            watchdog.note(f"step {step}")
            profiler.at(step)
            with meter.clock("data"):
                local = next(pipeline)
                batch = batches.global_batch(run.mesh, local)
            named = jax.profiler.StepTraceAnnotation("train", step_num=step)
            with named, jax.transfer_guard("disallow"):
                current, scalars = train_step(current, batch)
            counts = global_counts(pipeline)
            backward = 0.0 if config.loss.detach_und else 2.0
            flops = metrics.train_flops(run.model, counts, und_backward=backward)
            meter.add(scalars, counts, flops)
            writers.advance()
            if due(step + 1, config.train.log_every) or step + 1 == steps:
                numbers = meter.report() | data_numbers(pipeline)
                numbers |= ledger.add(step + 1, metrics.phases(numbers))
                writers.write(step + 1, numbers)
                refuse_divergence(numbers, step + 1, run.optimizer.config.max_skips)
        finished = int(current.step)
        if evaluator and not stopped and finished > start:
            evaluate(finished)
        if checkpoints.saved != finished:
            save(finished)
        with meter.clock("checkpoint"):
            checkpoints.wait()
        ledger.add(finished, meter.clock.split()[1])
        profiler.close()
        pipeline.close()
        writers.close()
    if lead:
        ended = "stopped by SIGTERM, saved" if stopped else "finished"
        print(f"{ended} at step {finished}: {workdir}", flush=True)
    return current


def due(step: int, every: int) -> bool:
    """Whether something that happens every so many steps (0: never) happens at this one."""
    return every > 0 and step > 0 and step % every == 0


def global_counts(pipeline: Pipeline) -> dict[str, int]:
    """Tokens and pairs of the global batch, estimated from this process's rows."""
    return {name: n * jax.process_count() for name, n in pipeline.counts.items()}


def data_numbers(pipeline: Pipeline) -> dict[str, float]:
    """Fill of the rows, epoch and records quarantined by any process, for the metrics."""
    for news in pod.gather("quarantined records", pipeline.quarantine.news()):
        pipeline.quarantine.know(news)
    wanted = ("fill/", "epoch", "quarantined")
    return {f"data/{k}": v for k, v in pipeline.stats().items() if k.startswith(wanted)}


def refuse_divergence(numbers: dict[str, float], step: int, limit: int) -> None:
    """Raises TrainingDiverged when too many updates in a row were skipped."""
    if numbers["consecutive_skips"] >= limit:
        raise TrainingDiverged(
            f"step {step}: the last {numbers['consecutive_skips']:.0f} updates were skipped (loss "
            f"{numbers['loss']:.4g}, gradient norm {numbers['grad_norm']:.4g}). Lower "
            "--config.optim.lr, look at the data, or raise --config.optim.max_skips; the newest "
            "checkpoint is from before."
        )


def run_lines(run: Run) -> str:
    """Devices, mesh, how rows are divided, and the dtype of the matmuls."""
    rows, parts = run.config.data.rows, run.microbatches
    return forecast.run_lines(run.mesh, rows=rows, microbatches=parts, dtype=run.model.dtype)


def dry_run(run: Run, pipeline: Pipeline | None, workdir: epath.Path) -> None:
    """Prints config, parameters, batch and memory, and draws the first pack; trains nothing."""
    config, mesh = run.config, run.mesh
    batch = pipeline.batch_spec() if pipeline else run.batch_spec()
    print(forecast.config_text(config))
    print(forecast.parameter_table(run.abstract.params, run.optimizer))
    print(forecast.path_list(run.abstract.params, run.optimizer))
    print(run_lines(run))
    print(forecast.batch_table(batch))
    rows = config.data.rows // (batches.row_parts(mesh) * run.microbatches)
    text, vit, gen = (batch[name][0][1] for name in ("text_ids", "vit_images", "latent_weights"))
    tokens = {"und": text + vit, "gen": gen, "text": text}
    activations = forecast.activation_bytes(run.model, run.loss, rows=rows, **tokens)
    print("memory of one device:")
    print(forecast.memory_table(run.abstract, run.shardings, run.optimizer, activations))
    if told := kept.complaint(config, run.codec, workdir):
        print(told)
    if pipeline:
        show_packs(run, pipeline, workdir)


def show_packs(run: Run, pipeline: Pipeline, workdir: epath.Path) -> None:
    """Prints how full the packs are, and draws the first one."""
    fill = ", ".join(f"{x:.1%}" for x in pipeline.plan.fill)
    print(f"{len(pipeline.plan)} packs in an epoch; text, vit and latent fill: {fill}")
    first = {name: array[0] for name, array in next(pipeline).items()}
    pipeline.close()
    print(pipeline.quarantine.summary())
    for source, record, reason in pipeline.quarantine.entries()[:_REASONS]:
        print(f"  {record} of {source}: {reason}")
    picture = workdir / "pack.png"
    drawing = packed_row.draw_row(first, run.tokenizer, title="first row of the run")
    with atomic.replacing(picture) as part:
        drawing.save(part)
    print(f"the first row is drawn in {picture}")


if __name__ == "__main__":
    own = (CONFIG, WORKDIR, DRY_RUN, SWEEP_INDEX, START_OVER)
    app.run(main, flags_parser=functools.partial(overrides.parse_flags, about=__doc__, own=own))
