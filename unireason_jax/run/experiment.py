"""What a config stands for: model, tokenizer, codec, pipeline of records, and the step's plan.

Training builds these from a config; sampling and evaluation rebuild the same from a run's
directory, so that both read and write exactly the same tokens.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath
from ml_collections import ConfigDict

from unireason_jax.data import rows
from unireason_jax.data.packs import Budgets
from unireason_jax.data.pipeline import Pipeline
from unireason_jax.data.resizing import Resize
from unireason_jax.data.tokenizer import Tokenizer, load_tokenizer
from unireason_jax.data.tokens import LatentCodec, SequenceSpec
from unireason_jax.models import vae
from unireason_jax.models.config import BagelConfig
from unireason_jax.run import configuration, corpus, kept
from unireason_jax.run.configuration import ConfigError
from unireason_jax.run.kept import AUTOENCODER
from unireason_jax.run.program import TrainProgram
from unireason_jax.storage import atomic
from unireason_jax.training import manifest, metrics
from unireason_jax.training.state import TrainState
from unireason_jax.world.basis import PatchBasis

TOKENIZER, CODEC = "tokenizer", "codec.npz"


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A config and what is made from it without touching a device.

    Attributes:
      config: the resolved config.
      model: the model's shape.
      spec: how a record becomes tokens; holds the tokenizer and the codec.
    """

    config: ConfigDict
    model: BagelConfig
    spec: SequenceSpec

    @property
    def tokenizer(self) -> Tokenizer:
        """Text <-> ids."""
        return self.spec.tokenizer

    @property
    def codec(self) -> LatentCodec:
        """Pictures <-> latents."""
        return self.spec.codec

    def save(self, workdir: epath.PathLike) -> None:
        """Writes what sampling needs but weights: config, tokenizer, and the codec if any."""
        workdir = epath.Path(workdir)
        configuration.save(workdir, self.config)
        self.tokenizer.save(Path(workdir / TOKENIZER))
        kept.keep_size(self.config, self.spec, workdir)
        if isinstance(self.codec, PatchBasis):
            with atomic.replacing(workdir / CODEC) as part:
                np.savez(part, **self.codec.to_arrays())
        elif file := kept.autoencoder(self.config):
            kept.keep_autoencoder(file, workdir)
        elif not (workdir / AUTOENCODER).exists():
            logging.warning(
                "No autoencoder: this run learns from latents, but nothing can be drawn with it "
                "until the %s that made them lies in %s. (`unireason encode` keeps it beside the "
                "latents when it is run again; --config.init_from brings that of a release.)",
                AUTOENCODER,
                workdir,
            )


def create(config: ConfigDict) -> Experiment:
    """The experiment of a config, for training: tokenizer and codec are those of its records.

    Raises:
      ConfigError: model and data do not fit together; the message says which key to set.
      FileNotFoundError, ValueError: the records cannot be opened.
    """
    return _assemble(config, *corpus.tokenizer_and_codec(config))


def outline(config: ConfigDict) -> Experiment:
    """The experiment of a config whose records are not there: only its sizes mean something."""
    return _assemble(config, *corpus.stand_ins(configuration.model_config(config).latent.channels))


def load(workdir: epath.PathLike) -> Experiment:
    """The experiment of a run or of a converted folder, for sampling and evaluation.

    Images of a converted folder are resized by BAGEL's rules; a run's are taken as they are.

    Raises:
      FileNotFoundError: the directory is not that of a training run.
    """
    config = configuration.load_workdir(workdir)
    tokenizer = load_tokenizer(Path(workdir) / TOKENIZER)
    return _assemble(config, tokenizer, _load_codec(epath.Path(workdir)))


def _load_codec(workdir: epath.Path) -> LatentCodec:
    """The codec that a run saved, or the autoencoder of a converted folder."""
    if (workdir / AUTOENCODER).exists():
        return vae.Autoencoder(*vae.load(workdir / AUTOENCODER))
    path = workdir / CODEC
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: not found, and no {AUTOENCODER} either; train again into this --workdir, or "
            "copy it (a run on encoded images has neither: give it the official one)."
        )
    with path.open("rb") as file:
        return PatchBasis.from_arrays(dict(np.load(file)))


def _resize(most: int, least: int, cell: int, side: int) -> Resize:
    """BAGEL's rule for a kind of copy, for tables of `side` cells."""
    longest = min(most, cell * side)
    return Resize(longest, min(least, longest // 2), cell)


def _assemble(
    config: ConfigDict,
    tokenizer: Tokenizer,
    codec: LatentCodec,
    resize: Mapping[str, Any] | None = None,
) -> Experiment:
    """Joins model and data, checking that they fit; `resize` rules go before those of the codec."""
    model = configuration.model_config(config)
    if tokenizer.vocab_size > model.llm.vocab:
        raise ConfigError(
            f"the tokenizer has {tokenizer.vocab_size} pieces but the model {model.llm.vocab} "
            f"rows; set --config.model.llm.vocab to at least {tokenizer.vocab_size}."
        )
    if codec.channels != model.latent.channels:
        raise ConfigError(
            f"the codec has {codec.channels} channels but the model {model.latent.channels}; "
            f"set --config.model.latent.channels={codec.channels}."
        )
    vit, rules = model.vit, {}
    if isinstance(codec, vae.Autoencoder):
        latent = codec.stride * model.latent.patch, model.latent.side
        rules["latent_resize"] = _resize(1024, 512, *latent)
        rules["vit_resize"] = _resize(980, 224, vit.patch, vit.side) if vit else None
    spec = SequenceSpec(
        tokenizer=tokenizer,
        codec=codec,
        latent_patch=model.latent.patch,
        latent_side=model.latent.side,
        vit_patch=vit.patch if vit else 0,
        vit_side=vit.side if vit else 1,
        dropout=tuple(config.data.dropout),
        weighting=config.data.weighting,
        interpolate=config.data.interpolate,
        **rules | dict(resize or {}),
    )
    return Experiment(config, model, spec)


def make_pipeline(
    experiment: Experiment,
    *,
    held_out: bool = False,
    multiple: int = 1,
    process: int = 0,
    processes: int = 1,
    workdir: epath.PathLike | None = None,
    dry_run: bool = False,
) -> Pipeline:
    """The endless iterator of training batches, or of held-out ones.

    Args:
      experiment: what to iterate over.
      held_out: prompts that training never sees, without condition dropout.
      multiple: of which the tokens of every stream are to be, see `Pipeline`.
      process, processes: which part of the global batch is local.
      workdir: where plans are cached and bad records are listed; None for nowhere.
      dry_run: nothing will be trained, so bad records are only counted.

    Raises:
      ConfigError: no task has a weight, or a budget is missing.
    """
    data, spec = experiment.config.data, experiment.spec
    seed, workers = data.seed, data.workers
    if held_out:
        spec = dataclasses.replace(spec, dropout=(0.0, 0.0, 0.0))
        seed, workers = (data.seed + 1) % 2**32, 0
    budgets = Budgets(**data.budgets) if sum(data.budgets.values()) else data.tokens
    if not budgets:
        raise ConfigError(
            "config.data: set budgets.text, budgets.vit and budgets.latent, or tokens (their sum, "
            "from which they are advised)."
        )
    quarantine = Path(workdir) / "quarantine.jsonl" if workdir and not dry_run else None
    sources, shares = corpus.make_sources(experiment.config, seed=seed, held_out=held_out)
    corpus.check_latents(sources, spec.codec)
    codec = corpus.codec_for_workers(sources, spec.codec, workers)
    spec = dataclasses.replace(spec, codec=codec)
    return Pipeline(
        sources,
        spec,
        weights=shares,
        quotas=corpus.quotas(experiment.config, sources),
        budgets=budgets,
        rows=data.rows,
        window=data.window,
        multiple=multiple,
        process=process,
        processes=processes,
        prefetch=data.prefetch,
        cache=corpus.plan_folder(sources, workdir),
        quarantine=quarantine,
        fresh=bool(workdir) and not manifest.steps(workdir),
        seed=seed,
        workers=workers,
    )


class Plan(TrainProgram):
    """All that is known of a training run before the first array exists.

    Attributes (besides those of `TrainProgram`):
      experiment: model, tokenizer, codec.
      pipeline: this process's batches; None in an outline.
    """

    def __init__(
        self,
        config: ConfigDict,
        workdir: epath.PathLike | None = None,
        *,
        is_outline: bool = False,
        dry_run: bool = False,
    ):
        """Makes everything but arrays on devices; an outline does without the records."""
        self.experiment = outline(config) if is_outline else create(config)
        super().__init__(config, self.experiment.model)
        self.pipeline = None
        if not is_outline:
            self.pipeline = self.make_pipeline(workdir=workdir, dry_run=dry_run)

    def make_pipeline(
        self,
        *,
        held_out: bool = False,
        workdir: epath.PathLike | None = None,
        dry_run: bool = False,
    ) -> Pipeline:
        """This process's batches, of training or held-out records; see `make_pipeline`."""
        return make_pipeline(
            self.experiment,
            held_out=held_out,
            multiple=self.mesh.shape["context"],
            process=jax.process_index(),
            processes=jax.process_count(),
            workdir=workdir,
            dry_run=dry_run,
        )

    def batch_spec(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape and dtype of every array of the global batch, by name.

        Raises:
          ConfigError: an outline whose config leaves the budgets to be advised from records.
        """
        if self.pipeline:
            return self.pipeline.batch_spec()
        data = self.config.data
        if not sum(data.budgets.values()):
            raise ConfigError("config.data.budgets: without records, set text, vit and latent.")
        room = Budgets(**data.budgets).rounded(self.mesh.shape["context"])
        spec = rows.row_spec(room, self.experiment.spec.patch_sizes)
        return {name: ((data.rows, *shape), dtype) for name, (shape, dtype) in spec.items()}

    def compile_step(self) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
        """The train step as an executable; the state it is given is donated."""
        with metrics.heartbeat("train step"):
            return self.lower_step(self.batch_spec()).compile()
