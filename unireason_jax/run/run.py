"""A run: a config and all that follows from it before the first array exists.

    run = Run.of(config)         to train, to compile, to measure
    run = Run.load(workdir)      to sample and to judge, from what training saved

Both ways end in the same tokenizer, codec and sizes, so a sampler reads and writes exactly the
tokens that training saw. What needs devices (mesh, optimizer, shardings) is worked out when it is
first asked for: a sampler pays for none of it, and `compile_check` may name devices that are not
there.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from absl import logging
from etils import epath
from ml_collections import ConfigDict

from unireason_jax.data.bagel.tokens import LatentCodec, SampleSpec
from unireason_jax.data.image_sizes import SizeCodec
from unireason_jax.data.rows import Budgets, row_spec
from unireason_jax.data.text.tokenizer import Tokenizer, load_tokenizer
from unireason_jax.models import functional, vae
from unireason_jax.models.config import ModelConfig
from unireason_jax.models.janus.config import JanusConfig
from unireason_jax.pods import batches, pod, sharding
from unireason_jax.run import (
    configuration,
    corpus,
    detected_system,
    drawing_assets,
    janus_codec,
    students,
    tokenizing,
)
from unireason_jax.run.configuration import ConfigError
from unireason_jax.run.drawing_assets import AUTOENCODER
from unireason_jax.storage import arrays, atomic, paths
from unireason_jax.training import checkpoint_manifest, metrics, state
from unireason_jax.training.objective import LossConfig
from unireason_jax.training.optim import Optimizer, flatten, make_optimizer
from unireason_jax.training.state import TrainState
from unireason_jax.world.basis import PatchBasis

if TYPE_CHECKING:
    from unireason_jax.data.pipeline import Pipeline

TOKENIZER, CODEC = "tokenizer", "codec.npz"
BatchSpec = Mapping[str, tuple[tuple[int, ...], Any]]
"""Shape and dtype of every array of a global batch, by name."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A config and what follows from it; made by `of` and by `load`.

    Attributes:
      config: the resolved config.
      model: the model's shape.
      spec: how a record becomes tokens; holds the tokenizer and the codec.
      has_records: whether the records of the config are to be read.
      devices: where it runs; None for all there are.
    """

    config: ConfigDict
    model: ModelConfig
    spec: SampleSpec
    has_records: bool = True
    devices: tuple[jax.Device, ...] | None = None

    @classmethod
    def of(
        cls,
        config: ConfigDict,
        devices: Sequence[jax.Device] | None = None,
        *,
        has_records: bool = True,
    ) -> "Run":
        """The run of a config.

        Args:
          config: the resolved config.
          devices: where it runs; all there are by default. They need not exist.
          has_records: False where the records are not there, or do not matter: tokenizer and codec
            are stand-ins of which only the sizes mean something.

        Raises:
          ConfigError: model and data do not fit together; the message says which key to set.
          FileNotFoundError, ValueError: the records cannot be opened.
        """
        configuration.check_seeds(config)
        model = configuration.model_config(config, devices[0].platform if devices else None)
        made = (
            tokenizing.tokenizer_and_codec(config) if has_records else tokenizing.stand_ins(model)
        )
        spec = tokenizing.sample_spec(config, model, *made)
        config = detected_system.told(config) if has_records else config
        return cls(config, model, spec, has_records, devices and tuple(devices))

    @classmethod
    def load(cls, workdir: epath.PathLike) -> "Run":
        """The run that was saved in a directory, or that a converted folder stands for.

        Images are resized by BAGEL's rules, or by those of `data.image_sizes.SMALLER` where the
        run was trained at these; the world's are taken as they are.

        Raises:
          FileNotFoundError: the directory is not that of a training run.
        """
        config = configuration.load_workdir(workdir)
        model = configuration.model_config(config)
        tokenizer = load_tokenizer(paths.of(workdir) / TOKENIZER)
        read = janus_codec.load if isinstance(model, JanusConfig) else load_codec
        codec = read(epath.Path(workdir))
        rules = tokenizing.smaller_sizes(config)
        return cls(config, model, tokenizing.sample_spec(config, model, tokenizer, codec, rules))

    def drawing(self) -> "Run":
        """Itself with the autoencoder that its latents were made with, where it only knew sizes.

        Raises:
          ConfigError: there is no autoencoder.
        """
        if not isinstance(self.codec, SizeCodec):
            return self
        file = drawing_assets.autoencoder(self.config)
        if not file:
            raise ConfigError(
                "config.eval.samples: pictures need the autoencoder; set config.data.vae, or 0."
            )
        codec, rules = vae.Autoencoder(*vae.load(file)), tokenizing.smaller_sizes(self.config)
        made = tokenizing.sample_spec(self.config, self.model, self.tokenizer, codec, rules)
        return dataclasses.replace(self, spec=made)

    def save(self, workdir: epath.PathLike) -> None:
        """Writes what sampling needs but weights: config, tokenizer, and the codec if any."""
        workdir = epath.Path(workdir)
        configuration.save(workdir, self.config)
        self.tokenizer.save(workdir / TOKENIZER)
        drawing_assets.keep_size(self.config, self.spec, workdir)
        if isinstance(self.model, JanusConfig):
            janus_codec.keep(self.config, workdir)
        elif isinstance(self.codec, PatchBasis):
            with atomic.replacing(workdir / CODEC) as part:
                np.savez(part, **self.codec.to_arrays())
        elif file := drawing_assets.autoencoder(self.config):
            drawing_assets.keep_autoencoder(file, workdir)
        elif told := drawing_assets.complaint(self.config, self.codec, workdir):
            logging.warning("%s", told)

    @property
    def tokenizer(self) -> Tokenizer:
        """Text <-> ids."""
        return self.spec.tokenizer

    @property
    def codec(self) -> LatentCodec:
        """Pictures <-> latents."""
        return self.spec.codec

    @functools.cached_property
    def loss(self) -> LossConfig:
        """What is minimised."""
        return configuration.loss_config(self.config)

    @functools.cached_property
    def optimizer(self) -> Optimizer:
        """How it is minimised. ValueError: options that cannot work."""
        logical = functional.logical_axes(self.model)
        return make_optimizer(configuration.optim_config(self.config, self.model), logical)

    @functools.cached_property
    def mesh(self) -> jax.sharding.Mesh:
        """Devices by axis.

        Raises:
          ConfigError: the rows of a batch cannot be divided over them.
          ValueError: sizes that do not fit the devices, or hosts that would feed unequal shares.
        """
        mesh, rows = sharding.configured_mesh(self.config.mesh, self.devices), self.config.data.rows
        parts = batches.row_parts(mesh) * self.microbatches
        if rows % parts:
            raise ConfigError(
                f"config.data.rows={rows} must be a multiple of data x fsdp x microbatches = "
                f"{parts}; set --config.data.rows={-(-rows // parts) * parts}, or have devices "
                "share a row (--config.mesh.context, with fewer on mesh.fsdp)."
            )
        batches.parts_by_process(mesh)
        return mesh

    @property
    def microbatches(self) -> int:
        """Parts of a batch whose gradients are summed."""
        return self.config.train.microbatches

    @functools.cached_property
    def shardings(self) -> TrainState:
        """NamedSharding of every leaf of the state."""
        logical = functional.logical_axes(self.model)
        return state.state_shardings(self.mesh, self._shapes, logical)

    @functools.cached_property
    def abstract(self) -> TrainState:
        """Shapes, dtypes and shardings of the state."""
        return state.with_shardings(self._shapes, self.shardings)

    @functools.cached_property
    def _shapes(self) -> TrainState:
        shapes = self.optimizer.stored(functional.abstract(self.model))
        return state.abstract_state(shapes, self.optimizer)

    @property
    def dtypes(self) -> dict[str, Any]:
        """Dtype of every parameter that weights are loaded for, by path; whole kernels only."""
        return {path: leaf.dtype for path, leaf in flatten(self.abstract.params).items()}

    def pipeline(
        self,
        *,
        held_out: bool = False,
        workdir: epath.PathLike | None = None,
        dry_run: bool = False,
        whole: bool = False,
    ) -> "Pipeline":
        """The endless iterator of this process's part of the batches.

        Args:
          held_out: prompts that training never sees, without condition dropout.
          workdir: where packs are cached and bad records are listed; None for nowhere.
          dry_run: nothing will be trained, so bad records are only counted.
          whole: all of every batch, without asking a device how it is divided.

        Raises:
          ConfigError: no task has a weight, or a budget is missing.
          ValueError: the hosts have planned different packs.
        """
        from unireason_jax.data.pipeline import Pipeline  # and Grain, which no sampler needs

        data, spec = self.config.data, self.spec
        process, processes = (0, 1) if whole else (jax.process_index(), jax.process_count())
        seed, workers = data.seed, data.workers
        if held_out:
            spec = dataclasses.replace(spec, dropout=(0.0, 0.0, 0.0))
            seed, workers = (data.seed + 1) % 2**32, 0
        budgets = self.budgets or data.tokens
        if not budgets:
            raise ConfigError(
                "config.data: set budgets.text, budgets.vit and budgets.latent, or tokens (their "
                "sum, from which they are advised)."
            )
        quarantine = paths.of(workdir) / "quarantine.jsonl" if workdir and not dry_run else None
        sources, shares = corpus.make_sources(self.config, seed=seed, held_out=held_out)
        tokenizing.check_latents(sources, spec.codec)
        if process == 0 and not held_out:
            tokenizing.check_words(self.config, sources, spec.tokenizer)
        codec = tokenizing.codec_for_workers(sources, spec.codec, workers)
        spec = dataclasses.replace(spec, codec=codec)
        make = functools.partial(
            Pipeline,
            sources,
            spec,
            weights=shares,
            quotas=corpus.quotas(self.config, sources),
            budgets=budgets,
            rows=data.rows,
            window=data.window,
            multiple=1 if whole else self.mesh.shape["context"],
            process=process,
            processes=processes,
            places=None if whole else batches.local_rows(self.mesh, data.rows).tolist(),
            prefetch=data.prefetch,
            cache=corpus.plan_folder(sources, workdir),
            quarantine=quarantine,
            fresh=bool(workdir) and not checkpoint_manifest.steps(workdir),
            seed=seed,
            workers=workers,
        )
        if whole:
            return make()
        made = pod.first_alone("plan of packs is made", make)
        pod.same("plan of packs", made.digest, "give all hosts the same data and versions")
        return made

    def settled(self) -> "Run":
        """Itself, laid out over its devices now; raises what mesh and optimizer refuse."""
        jax.tree.structure(self.abstract)
        return self

    @property
    def budgets(self) -> Budgets | None:
        """Tokens of a row by stream as configured; None where they are advised from records."""
        given = self.config.data.budgets
        return Budgets(**given) if sum(given.values()) else None

    def batch_spec(self, budgets: Budgets | None = None) -> BatchSpec:
        """Shape and dtype of every array of the global batch.

        Args:
          budgets: tokens of a row by stream; the config's by default.

        Raises:
          ConfigError: neither says how long a row is.
        """
        budgets = budgets or self.budgets
        if not budgets:
            raise ConfigError("config.data.budgets: without records, set text, vit and latent.")
        room = budgets.rounded(self.mesh.shape["context"])
        spec = row_spec(room, self.spec.patch_sizes, by_codes=self.spec.by_codes)
        return {name: ((self.config.data.rows, *shape), t) for name, (shape, t) in spec.items()}

    def lower_step(self, spec: BatchSpec) -> jax.stages.Lowered:
        """The train step, traced; the state it is given is donated. Call it inside the mesh."""
        rows = batches.batch_sharding(self.mesh)
        batch = {n: jax.ShapeDtypeStruct(*leaf, sharding=rows) for n, leaf in spec.items()}
        step = functools.partial(
            students.train_step_of(self),
            model=self.model,
            loss=self.loss,
            optimizer=self.optimizer,
            microbatches=self.microbatches,
        )
        jitted = jax.jit(step, donate_argnums=0, out_shardings=(self.shardings, None))
        return jitted.lower(self.abstract, batch, **students.teacher_of(self, abstract=True))

    def compile_step(
        self, spec: BatchSpec
    ) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
        """The train step as an executable; the state it is given is donated."""
        with metrics.heartbeat("train step"):
            step = self.lower_step(spec).compile()
        return functools.partial(step, **students.teacher_of(self))


def load_codec(workdir: epath.Path) -> LatentCodec:
    """The codec that a run saved, or the autoencoder of a converted folder.

    Raises:
      FileNotFoundError: there is neither.
      ValueError: the file is damaged; the message names it.
    """
    if (workdir / AUTOENCODER).exists():
        return vae.Autoencoder(*vae.load(workdir / AUTOENCODER))
    path = workdir / CODEC
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: not found, and no {AUTOENCODER} either; train again into this --workdir, or "
            "copy it (a run on encoded images has neither: give it the official one)."
        )
    try:
        return PatchBasis.from_arrays(arrays.read(path))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the codec cannot be read: {error}") from None
