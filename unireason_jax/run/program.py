"""The train step as a program: shapes, shardings and compilation, for any devices.

Nothing here needs data or touches an array, so the same program that a run executes can be compiled
for a pod that is not there (see `compile_check`).
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from unireason_jax.models import functional
from unireason_jax.models.config import BagelConfig
from unireason_jax.pods import batches, sharding
from unireason_jax.run import configuration
from unireason_jax.run.configuration import ConfigError
from unireason_jax.training import objective, state
from unireason_jax.training.optim import make_optimizer

BatchSpec = Mapping[str, tuple[tuple[int, ...], Any]]


class TrainProgram:
    """Everything that decides how the train step is compiled, except the batch's shapes.

    Attributes:
      config: the resolved config.
      model: the model's shape.
      loss, optimizer: what is minimised, and how.
      mesh: devices by axis.
      microbatches: parts of a batch whose gradients are summed.
      shardings: NamedSharding of every leaf of the state.
      abstract: shapes, dtypes and shardings of the state.
    """

    def __init__(
        self, config: ConfigDict, model: BagelConfig, devices: Sequence[jax.Device] | None = None
    ):
        """Lays the state out over the devices; all there are by default.

        Raises:
          ConfigError: the rows of a batch cannot be divided.
          ValueError: mesh sizes or optimizer options that cannot work.
        """
        self.config, self.model = config, model
        self.loss = configuration.loss_config(config)
        logical = functional.logical_axes(model)
        self.optimizer = make_optimizer(configuration.optim_config(config), logical)
        self.mesh = sharding.configured_mesh(config.mesh, devices)
        self.microbatches = config.train.microbatches
        parts = batches.row_parts(self.mesh) * self.microbatches
        if config.data.rows % parts or batches.row_parts(self.mesh) % jax.process_count():
            raise ConfigError(
                f"config.data.rows={config.data.rows} must be a multiple of data x fsdp x "
                f"microbatches = {parts}, and data x fsdp of the {jax.process_count()} processes."
            )
        shapes = state.abstract_state(functional.abstract(model), self.optimizer)
        self.shardings = state.state_shardings(self.mesh, shapes, logical)
        self.abstract = state.with_shardings(shapes, self.shardings)

    def abstract_batch(self, spec: BatchSpec) -> dict[str, jax.ShapeDtypeStruct]:
        """A global batch given shape and dtype of its arrays, rows over `data` x `fsdp`."""
        rows = batches.batch_sharding(self.mesh)
        return {
            name: jax.ShapeDtypeStruct(shape, dtype, sharding=rows)
            for name, (shape, dtype) in spec.items()
        }

    def lower_step(self, spec: BatchSpec) -> jax.stages.Lowered:
        """The train step, traced; the state it is given is donated. Call it inside the mesh.

        Args:
          spec: shape and dtype of the global batch's arrays.
        """
        step = functools.partial(
            objective.train_step,
            model=self.model,
            loss=self.loss,
            optimizer=self.optimizer,
            microbatches=self.microbatches,
        )
        jitted = jax.jit(step, donate_argnums=0, out_shardings=(self.shardings, None))
        return jitted.lower(self.abstract, self.abstract_batch(spec))
