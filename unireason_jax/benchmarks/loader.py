"""`unireason bench loader`: the embedded world through the whole pipeline, without a model."""

import time

from unireason_jax.data.pipeline import Pipeline
from unireason_jax.data.sequence import SequenceSpec
from unireason_jax.data.sources import WorldSource
from unireason_jax.data.tokenizer import SentencePieceTokenizer
from unireason_jax.world import vocabulary
from unireason_jax.world.basis import PatchBasis

TASKS = {
    "t2i": 0.2,
    "think_t2i": 0.2,
    "think_knowledge": 0.1,
    "edit": 0.2,
    "refine_t2i": 0.15,
    "process": 0.1,
    "vqa": 0.05,
}


def world_spec() -> SequenceSpec:
    """The world's tokens: a picture of 32 x 32 pixels is 16 latent tokens or 16 ViT patches."""
    return SequenceSpec(
        tokenizer=SentencePieceTokenizer.train((), vocabulary.WORDS),
        codec=PatchBasis.create(),
        latent_patch=1,
        latent_side=16,
        vit_patch=8,
        vit_side=16,
        dropout=(0.1, 0.1, 0.0),
    )


def run(
    *,
    records: int,
    tokens_per_row: int,
    rows: int,
    batches: int,
    workers: int = 0,
    seed: int = 0,
) -> dict:
    """Builds the pipeline over the world and draws batches as fast as it makes them.

    Args:
      records: records of an epoch; all are measured and planned.
      tokens_per_row: wished sum of the budgets.
      rows: rows of a batch.
      batches: timed batches, after the first.
      workers: processes that render; 0 is a thread of this one.
      seed: of everything.

    Returns:
      Plain numbers: seconds to measure and plan, tokens, rows and records a second of wall and of
      CPU time (of this process; CPU seconds of workers are not seen), and the pipeline's stats.
    """
    source = WorldSource(seed, records, TASKS)
    start, start_cpu = time.perf_counter(), time.process_time()
    pipeline = Pipeline(
        {"world": source},
        world_spec(),
        budgets=tokens_per_row,
        rows=rows,
        seed=seed,
        workers=workers,
    )
    built, built_cpu = time.perf_counter() - start, time.process_time() - start_cpu
    try:
        next(pipeline)
        start, start_cpu = time.perf_counter(), time.process_time()
        for _ in range(batches):
            next(pipeline)
        wall, cpu = time.perf_counter() - start, time.process_time() - start_cpu
        stats = pipeline.stats()
    finally:
        pipeline.close()
    tokens = batches * rows * pipeline.budgets.total
    return {
        "bench": "loader",
        "workers": workers,
        "records": records,
        "build_wall_s": built,
        "build_cpu_s": built_cpu,
        "plan": pipeline.plan.report(),
        "batches": batches,
        "rows": rows,
        "row_tokens": pipeline.budgets.total,
        "wall_s": wall,
        "cpu_s": cpu,
        "tokens_per_wall_s": tokens / wall,
        "tokens_per_cpu_s": tokens / cpu if not workers else None,
        "rows_per_wall_s": batches * rows / wall,
        "stats": stats,
    }
