"""Recipes: the papers' schedules, what they freeze, their dry run, and their twins in the world."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict

from configs import tiny, world_twin
from unireason_jax import prepare, train
from unireason_jax.run import configuration, corpus, tokenizing
from unireason_jax.run.configuration import ConfigError
from unireason_jax.run.run import Run
from unireason_jax.training import checkpoint
from unireason_jax.training.optim import flatten, learning_rate

ROOT = Path(__file__).resolve().parent.parent
RECIPES = sorted(world_twin.TWINS)
# learning rate at some steps: start, end of the warm-up, end
SCHEDULES = {
    "unireason_stage1": {0: 0.0, 3000: 5e-5, 30_000: 1e-5},
    "unireason_stage2": {0: 0.0, 1000: 2e-5, 10_000: 1e-6},
    "irg_stage1": {0: 0.0, 500: 2e-5, 2000: 2e-5},
    "irg_stage2": {0: 2e-5, 30_000: 2e-5},
    "process_driven": {0: 0.0, 1000: 2e-5, 10_000: 1e-7},
    "uni_edit": {0: 0.0, 2000: 2e-5, 10_000: 2e-5},
    "bagel_finetune": {0: 0.0, 2000: 2e-5, 10_000: 2e-5},
    "janus_finetune": {0: 4e-5, 10_000: 4e-5},
    "uni_edit_janus": {0: 0.0, 500: 2e-5, 5000: 2e-5},
}
PARAMETERS = {"bagel_7b_mot": "14,575,018,464", "janus_pro_1b": "2,004,753,408"}


def recipe(name):
    return configuration.load(f"configs/{name}.py")


def twin(name, **data):
    """A recipe's twin with the smallest model and few examples."""
    config = configuration.load(f"configs/world_twin.py:{name}")
    if "janus" in name:
        config.model.llm.update({"width": 32, "layers": 1, "heads": 2, "kv_heads": 2, "mlp": 48})
        config.model.llm.head_dim, config.model.unroll = 16, 1
    else:
        config.model = tiny.get_config().model
    config.data.update({"examples": 120, "tokens": 0, "rows": 8} | data)
    config.data.budgets = ConfigDict({"text": 240, "vit": 112, "latent": 160})
    config.train.update({"steps": 3, "save_every": 0, "log_every": 1, "tensorboard": False})
    config.eval.every = 0
    config.optim.warmup_steps = 0
    config.init_from = "scratch"
    return config


@pytest.mark.parametrize("name", RECIPES)
def test_schedules_are_the_papers(name):
    rate = learning_rate(configuration.optim_config(recipe(name)))
    for step, wanted in SCHEDULES[name].items():
        assert float(rate(step)) == pytest.approx(wanted, rel=1e-5, abs=1e-12)


@pytest.mark.parametrize("name", RECIPES)
def test_the_dry_run_needs_neither_records_nor_memory(name, tmp_path, capsys):
    config = recipe(name)
    assert len(corpus.absent(config)) == max(1, len(config.data.groups))
    run = Run.of(config, has_records=False)
    train.dry_run(run, None, epath.Path(tmp_path))
    printed = capsys.readouterr().out
    assert PARAMETERS[config.model.variant] in printed and "moving average" in printed
    assert not list(tmp_path.iterdir())
    with pytest.raises(
        FileNotFoundError, match="does not exist; write the records with `unireason prep"
    ):
        Run.of(config)


def test_stage_1_trains_the_generation_branch_and_half_the_state():
    first, second = (Run.of(recipe(f"unireason_stage{n}"), has_records=False) for n in (1, 2))
    trained = flatten(first.optimizer.split(first.abstract.params)[0])
    ours = ("stack/blocks/gen/", "stack/gen_norm/", "latent_", "time_")
    assert all(path.startswith(ours) for path in trained)
    left = set(flatten(first.abstract.params)) - set(trained)
    assert not any(path.startswith(ours) for path in left)
    sizes = [
        sum(math.prod(x.shape) for x in jax.tree.leaves(p.abstract.opt_state.inner))
        for p in (first, second)
    ]
    assert 0.4 < sizes[0] / sizes[1] < 0.5
    assert recipe("unireason_stage2").init_from == "runs/unireason_stage1"
    assert recipe("unireason_stage2").init_which == "ema"


@pytest.mark.parametrize("name", RECIPES)
def test_a_twin_keeps_the_recipe_and_supervises_what_it_does(name):
    large, small = recipe(name), twin(name)
    assert small.loss == large.loss and small.data.dropout == large.data.dropout
    for key in ("ema", "eps", "freeze", "freeze_from", "schedule", "clip_norm"):
        assert small.optim[key] == large.optim[key]
    run = Run.of(small)
    pipeline = run.pipeline()
    batches = [next(pipeline) for _ in range(2)]
    pipeline.close()
    texts = sum(int((batch["text_weights"] > 0).sum()) for batch in batches)
    assert (texts > 0) == (small.loss.ce_weight > 0)
    drawn = "code_weights" if "janus" in name else "latent_weights"
    assert all((batch[drawn] > 0).any() for batch in batches)
    if "janus" in name:
        return
    dropped = run.spec.dropout[1] == 1.0
    clean = any(
        (np.isneginf(b["latent_logits"]) & (b["latent_positions"] > 0)).any() for b in batches
    )
    assert clean != dropped


def test_an_unknown_recipe_is_named():
    with pytest.raises(ValueError, match=r"no recipe 'janus'.*uni_edit"):
        configuration.load("configs/world_twin.py:janus")


# ------------------------------------------------------------------ groups of prepared folders


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Two prepared folders of the world below one."""
    folder = tmp_path_factory.mktemp("groups")
    for task in ("t2i", "edit"):
        prepare.main(
            ["prepare", "--format", "world", "--tasks", f"{task}=1", "--size", "20",
             "--output", str(folder / task)]
        )  # fmt: skip
    return folder


def grouped(folder, **shares):
    config = twin("uni_edit", source=str(folder))
    config.data.groups = ConfigDict(shares)
    return config


def test_groups_are_read_by_their_shares(prepared):
    config = grouped(prepared, t2i=3.0, edit=1.0, vqa=0.0)
    sources, shares = corpus.make_sources(config, seed=0)
    assert set(sources) == {"t2i", "edit"} and shares == {"t2i": 3.0, "edit": 1.0}
    assert {sources["edit"][n].source for n in range(20)} == {"edit"}
    assert "missing" in str(corpus.absent(grouped(prepared, t2i=1.0, missing=1.0))[0])
    with pytest.raises(ConfigError, match="every share is 0"):
        corpus.places(grouped(prepared, t2i=0.0))


def test_released_sizes_come_with_their_folder(prepared, tmp_path):
    """Sizes and tokenizer are the folder's; without latents or an autoencoder it is refused."""
    config = grouped(prepared, t2i=1.0)
    folder = tmp_path / "large"
    folder.mkdir()
    for path in (prepared / "t2i").iterdir():
        (folder / path.name).symlink_to(path)
    manifest = json.loads((prepared / "t2i" / "manifest.json").read_text())
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").write_text(json.dumps(manifest | {"sizes": "unireason"}))
    config.data.source, config.data.groups = str(folder), ConfigDict()
    sources, _ = corpus.make_sources(config, seed=0)
    with pytest.raises(ConfigError, match=r"holds no latents; run `unireason encode`"):
        tokenizing.check_latents(sources, tokenizing.tokenizer_and_codec(config)[1])
    both = manifest | {"sizes": "unireason", "latents": {}}
    (folder / "manifest.json").write_text(json.dumps(both))
    _, codec, resize = tokenizing.tokenizer_and_codec(config)
    assert (codec.stride, codec.channels) == (8, 16)
    assert resize["vit_resize"](1024, 1024) == (532, 532)


def test_an_unknown_style_is_named():
    config = twin("uni_edit", style="fancy")
    with pytest.raises(ConfigError, match=r"data.style is 'fancy'; use one of plain, bagel"):
        corpus.make_sources(config, seed=0)


# ------------------------------------------------------------------ running


def parameters(workdir, run, which):
    loaded = checkpoint.load_params(
        workdir, which=which, expected=run.abstract.params, shardings=run.shardings.params
    )
    return {path: np.asarray(leaf) for path, leaf in flatten(loaded).items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(RECIPES) - {"unireason_stage1", "unireason_stage2"}))
def test_twins_train(name, tmp_path, quick_compile):
    config = twin(name)
    config.train.hash_checkpoints = False
    run = Run.of(config)
    final = train.train(run, run.pipeline(workdir=tmp_path), epath.Path(tmp_path))
    assert int(final.step) == 3 and int(final.opt_state.skipped) == 0
    scores = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(row["loss"]) for row in scores if "loss" in row)


@pytest.mark.slow
def test_the_two_stages_run_from_one_script(tmp_path):
    """Understanding stands still, bit for bit, in stage 1; stage 2 starts from its averages."""
    sizes = {"variant": "nano", "llm.width": 32, "llm.layers": 2, "llm.mlp": 64, "llm.head_dim": 8}
    sizes |= {"vit.width": 24, "vit.heads": 2, "vit.mlp": 48}
    few = {"train.log_every": 1, "eval.every": 0, "data.examples": 200, "data.rows": 8}
    few |= {"optim.warmup_steps": 0} | {f"model.{key}": value for key, value in sizes.items()}
    first = configuration.load("configs/world_twin.py:unireason_stage1", few | {"train.steps": 0})
    one = tmp_path / "unireason_stage1"
    run = Run.of(first)
    train.train(run, run.pipeline(workdir=one), epath.Path(one))  # saves the weights it starts from
    before = parameters(one, run, "params")
    flags = [f"--config.{key}={value}" for key, value in (few | {"train.steps": 3}).items()]
    environment = os.environ | {"PYTHON": sys.executable, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    environment |= {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    script = ["bash", str(ROOT / "launch" / "world_stages.sh"), str(tmp_path), *flags]
    done = subprocess.run(script, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert f"ema weights of {tmp_path}/unireason_stage1" in done.stdout
    trained, frozen = (set(flatten(part)) for part in run.optimizer.split(run.abstract.params))
    after, averaged = (parameters(one, run, which) for which in ("params", "ema"))
    final = parameters(tmp_path / "unireason_stage2", run, "params")
    assert all(np.array_equal(before[path], after[path]) for path in frozen)
    assert all(np.array_equal(before[path], averaged[path]) for path in frozen)
    moved = [path for path in trained if not np.array_equal(before[path], after[path])]
    assert len(moved) > 0.9 * len(trained)
    assert any(not np.array_equal(averaged[path], final[path]) for path in frozen)
    costs = json.loads((tmp_path / "costs.json").read_text())[-1]
    assert costs["optimizer_bytes"] < 0.6 and costs["flops_per_token"] < 0.8
