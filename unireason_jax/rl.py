"""`unireason rl`: reinforces text and drawing of a trained model together, on its own trajectories.

    unireason rl --config configs/rl_reflect.py --workdir runs/rl \\
        --config.init_from=runs/quickstart

An iteration asks prompts, lets siblings of each be written and drawn, judges them, and updates the
weights once (or `rl.updates` times) towards what earned more than its siblings. The workdir is that
of a training run: `generate` and `evaluate` take it. Everything an iteration draws follows from
`seed` and its number, so a run that was killed goes on from its newest checkpoint, bit for bit,
when the same command is given again. On SIGTERM it saves and exits with status 0.

Started on every host of a pod, as training is, the hosts share the rollouts, the judging and the
examinations: each samples its part of the siblings on its own chips, with a copy of the weights
that is made anew every iteration, and all take one step together on the mesh. Prompts, draws and
rows do not depend on how many they are, so another number of hosts may go on with a run.
"""

import contextlib
import dataclasses
import itertools
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from absl import flags, logging
from etils import epath
from ml_collections import ConfigDict, config_flags

from unireason_jax.inference import load, sampler
from unireason_jax.inference.reasoner import Reasoner
from unireason_jax.inference.settings import Settings
from unireason_jax.models import functional
from unireason_jax.models.archive import ArchiveError
from unireason_jax.pods import local_copy, pod, sharding
from unireason_jax.pods.preemption import StopSignal
from unireason_jax.pods.watchdog import Watchdog
from unireason_jax.reinforcement import (
    exam,
    initial_state,
    iteration,
    passing,
    prompts,
    rewards,
    rollouts,
    settings,
    update,
)
from unireason_jax.reinforcement.iteration import Judged
from unireason_jax.reinforcement.prompts import Prompts
from unireason_jax.reinforcement.rewards import Reward
from unireason_jax.reinforcement.settings import Policy
from unireason_jax.run import command_line, compile_cache, overrides
from unireason_jax.run.configuration import ConfigError, plain
from unireason_jax.run.initial_state import starting_state
from unireason_jax.run.run import Run
from unireason_jax.storage import paths
from unireason_jax.training import checkpoint, metrics, writers
from unireason_jax.training.checkpoint import Checkpoints
from unireason_jax.training.optim import Params, merge
from unireason_jax.training.state import TrainState
from unireason_jax.training.writers import Writers

_SHOWN = 4  # trajectories drawn at a time


def main(argv: Sequence[str]) -> None:
    """Reads the command line and reinforces; what the user can mend becomes one line."""
    try:
        own = _flags(argv)
        if not command_line.parse(own, argv, __doc__, overrides.read_flags):
            return
        if own.config is None or not own.workdir:
            raise ConfigError("--config=<file> and --workdir=<directory> are needed.")
        logging.set_verbosity(logging.WARNING)  # libraries only when something is wrong
        workdir = epath.Path(paths.of(own.workdir))
        joined = sharding.initialize_distributed() > 1
        compile_cache.share(workdir / "compiled" if joined else None)
    except (ValueError, OSError, flags.Error) as error:
        sys.exit(f"error: {error}")
    with pod.ending_together():
        attempt(own.config, workdir)


def attempt(config: ConfigDict, workdir: epath.Path) -> None:
    """One process's part of the job; what the user can mend becomes one line, not a traceback."""
    try:
        with pod.holding(workdir, "unireason rl", seen=True):
            reinforce(config, workdir)
    except (ConfigError, ArchiveError, ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except checkpoint.FAULTS as error:
        sys.exit(f"error: {error}")


def reinforce(config: ConfigDict, workdir: epath.Path) -> TrainState:
    """The whole run; returns the last state.

    Raises:
      ConfigError, FileNotFoundError, ValueError: the run cannot begin; the message says what to do.
    """
    policy = settings.policy(config)
    initial_state.check(config)
    writers.check(config.train)
    run = initial_state.run_of(config, policy, workdir)
    initial_state.check_rows(run)
    run = run.settled()
    usual = load.usual_settings(run, _home(run, workdir))
    rollouts.settings_of(policy, usual)  # says what cannot work before anything is written
    asks = Asks(
        prompts.training(policy, config.seed, run.config.data.side),
        prompts.held_out(policy, config.seed, run.config.data.side),
        rewards.of(policy),
    )
    workdir.mkdir(parents=True, exist_ok=True)
    train = config.train
    with (
        jax.set_mesh(run.mesh),
        StopSignal() as stop,
        Watchdog(train.hang_seconds, give_up=pod.fail) as watchdog,
        Checkpoints(
            workdir,
            keep=train.keep,
            keep_every=train.keep_every,
            hashes=train.hash_checkpoints,
        ) as checkpoints,
    ):
        state, _, source = starting_state(run, checkpoints)
        reference = initial_state.reference_of(run, policy, state, workdir)
        first = int(state.step) // policy.updates
        if jax.process_index() == 0:
            run.save(workdir)
            count = f"{functional.count(run.abstract.params):,} parameters"
            print(f"{count} from {source}; iteration {first} to {train.steps}", flush=True)
        passing.clear(workdir)
        loop = Loop(run, policy, asks, usual, reference, workdir, first)
        stopped = False
        for number in range(first, train.steps):
            if number > first and number % max(train.save_every, 1) == 0:
                watchdog.note(f"checkpoint of iteration {number}")
                checkpoints.save(int(state.step), state, {"iteration": number})
            if stopped := stop.reached(number):
                break
            watchdog.pause() if number == first else watchdog.note(f"iteration {number}")
            if number == 0:
                loop.examine(state, 0)
            state = loop.step(state, number)
            if every := policy.eval_every:
                watchdog.pause()
                if (number + 1) % every == 0 or number + 1 == train.steps:
                    loop.examine(state, number + 1)
        watchdog.pause()
        if checkpoints.saved != int(state.step):
            ended = {"iteration": int(state.step) // policy.updates}
            checkpoints.save(int(state.step), state, ended)
        checkpoints.wait()
        loop.close()
    if jax.process_index() == 0:
        ended = "stopped by SIGTERM, saved" if stopped else "finished"
        print(f"{ended} at update {int(state.step)}: {workdir}", flush=True)
    return state


class Asks(NamedTuple):
    """What is asked for, and who judges: training and held-out prompts, the reward."""

    training: Prompts
    held_out: Prompts
    reward: Reward


class Loop:
    """One iteration after the other.

    Args:
      run: what is reinforced.
      policy: how.
      asks: prompts and judge.
      usual: how the model is sampled outside of rollouts.
      reference: see `initial_state.reference_of`.
      workdir: of the run.
      first: iteration that it begins with.
    """

    def __init__(
        self,
        run: Run,
        policy: Policy,
        asks: Asks,
        usual: Settings,
        reference: Params,
        workdir: epath.Path,
        first: int,
    ):
        config = run.config
        self._run, self._policy, self._usual, self._reference = run, policy, usual, reference
        self._asks, self._workdir = asks, workdir
        self._update = update.jitted(run, policy)
        self._clock = metrics.Clock()
        self._writers = Writers(
            workdir,
            start=first,
            total=config.train.steps,
            tensorboard=config.train.tensorboard,
            wandb=config.train.wandb,
            config=plain(config),
        )

    def step(self, state: TrainState, number: int) -> TrainState:
        """Iteration `number`: rollouts, rewards, updates, metrics."""
        policy, run = self._policy, self._run
        settings_now = rollouts.settings_of(policy, self._usual)
        asked = self._asks.training(number * policy.prompts, policy.prompts)
        with self._reasoner(state.params, settings_now, "rollout") as reasoner:
            judged, stack, count = iteration.iterate(
                reasoner,
                policy,
                asked,
                self._asks.reward,
                seed=sampler.seed(run.config.seed, "iteration", number),
                clock=self._clock,
                mesh=run.mesh,
                folder=self._workdir,
            )
        del reasoner  # its copy of the weights, before the update needs room
        found = iteration.numbers(judged, policy)
        if count:
            with self._clock("update"):
                state, told = self._updated(state, stack, count)
            found |= told
        else:  # nothing could be judged: the prompts count as asked
            state = dataclasses.replace(state, step=state.step + policy.updates)
        self._report(number + 1, found)
        self._show(number + 1, judged)
        return state

    def examine(self, state: TrainState, finished: int) -> None:
        """Held-out prompts, with the averaged weights if there are any; nothing if switched off."""
        policy = self._policy
        if not policy.eval_every:
            return
        weights = merge(state.ema, state.params) if state.ema else state.params
        with self._reasoner(weights, self._usual, "eval") as reasoner, self._clock("eval"):
            asked = self._asks.held_out(0, policy.eval_prompts)
            found = exam.examine(reasoner, policy, asked, self._asks.reward)
        self._writers.write(finished, exam.numbers(found))

    @contextlib.contextmanager
    def _reasoner(self, params: Params, how: Settings, phase: str) -> Iterator[Reasoner]:
        """The model on the devices of this process, which are the mesh meanwhile."""
        run, mesh = self._run, self._run.mesh
        with contextlib.ExitStack() as stack:
            with self._clock(phase):
                if mesh.size > 1:
                    heads = run.model.llm.kv_heads
                    params = functional.in_matmul_dtype(run.model, params)
                    logical = functional.logical_axes(run.model)
                    params = local_copy.local_copy(params, logical, mesh, heads)
                    mesh = local_copy.local_mesh(mesh, heads)
                    stack.enter_context(jax.set_mesh(mesh))
                else:
                    mesh = None
                reasoner = load.around(run, params, how, mesh)
            yield reasoner

    def _updated(
        self, state: TrainState, stack: dict[str, jax.Array], count: int
    ) -> tuple[TrainState, dict[str, float]]:
        """All updates on one iteration's rollouts; the metrics are means over them."""
        recorded, told = update.nothing_recorded(stack), []
        for number in range(self._policy.updates):
            state, recorded, one = self._update(
                state,
                self._reference,
                stack,
                np.int32(count),
                recorded,
                np.bool_(number == 0),
            )
            told.append(jax.device_get(one))
        means = {name: sum(float(one[name]) for one in told) / len(told) for name in told[0]}
        # Of the weights that sampled: how far the sampler's programs and the update's are apart.
        return state, means | {k: float(v) for k, v in told[0].items() if k.startswith("mismatch")}

    def _report(self, finished: int, found: dict[str, float]) -> None:
        self._writers.advance()
        total, spent = self._clock.split()
        train = self._run.config.train
        if finished % max(train.log_every, 1) == 0 or finished == train.steps:
            spent = {f"time/{phase}": seconds for phase, seconds in spent.items()}
            self._writers.write(finished, found | spent | {"time/total": total})

    def _show(self, finished: int, judged: Judged) -> None:
        """Strips of the first trajectories of a group, now and then."""
        every = self._policy.show_every
        if not every or finished % every or not self._writers.active:
            return
        pictures = {}
        for place, one in itertools.islice(judged.trajectories.items(), _SHOWN):
            numbers = [n for n, step in enumerate(one.trace.steps) if step.kind == "image"]
            passed = judged.accounts[place].score.passed
            trace = one.trace.judged(dict(zip(numbers, passed)))
            pictures[f"{place} {one.asked.prompt}"] = trace.strip()
        self._writers.show(finished, pictures)

    def close(self) -> None:
        """Closes the writers."""
        self._writers.close()


def _home(run: Run, workdir: epath.Path) -> epath.PathLike:
    """Where the weights that the run begins with are from: they know the size of pictures."""
    return workdir if checkpoint.steps(workdir) else run.config.init_from


def _flags(argv: Sequence[str]) -> flags.FlagValues:
    own = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", None, "file, e.g. configs/rl_reflect.py", flag_values=own, sys_argv=list(argv)
    )
    flags.DEFINE_string("workdir", None, "of the run; an existing run goes on", flag_values=own)
    return own


if __name__ == "__main__":
    main(sys.argv)
