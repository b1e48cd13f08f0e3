"""Shared set-up: eight fake CPU devices, absl flags for Grain, and the golden folders.

The goldens are recordings of what the official PyTorch code does. They are looked for in the
folder named by UNIREASON_GOLDENS, else in `../shared/goldens` beside the repository; tests that
need them are skipped, with the reason, where neither exists. UNIREASON_TEST_PLATFORM=cuda takes a
GPU instead, for tests that need one device only, such as those of `tests/models/test_attention.py`.
"""

import gc
import os
import uuid
from pathlib import Path

os.environ["JAX_PLATFORMS"] = os.environ.get("UNIREASON_TEST_PLATFORM", "cpu")
_DEVICES = "--xla_force_host_platform_device_count=8"
# XLA ends a process whose devices do not meet within 40 s, as happens on a busy machine.
_PATIENCE = "--xla_cpu_collective_call_terminate_timeout_seconds=900"
for _flag in (_DEVICES, _PATIENCE):
    if _flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_flag}".strip()
# Programs that tests and their child processes compile: never in the user's own folder.
_CACHE = Path(__file__).resolve().parent.parent / ".pytest_cache" / "compiled"
os.environ.setdefault("UNIREASON_CACHE", str(_CACHE))

import pytest  # noqa: E402
from absl import flags  # noqa: E402

from launch import bucket  # noqa: E402
from unireason_jax.run import compile_cache  # noqa: E402

os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
compile_cache.share()

if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()  # Grain's workers read an absl flag also outside app.run

REPOSITORY = Path(__file__).resolve().parent.parent


def _goldens(folder: str) -> Path:
    root = Path(os.environ.get("UNIREASON_GOLDENS", REPOSITORY.parent / "shared" / "goldens"))
    path = root / folder
    if not path.is_dir():
        pytest.skip(f"no goldens at {path}; set UNIREASON_GOLDENS to the folder that holds them")
    return path


@pytest.fixture(scope="session")
def goldens() -> Path:
    """Folder `open`: weights, activations and training steps of the official model code."""
    return _goldens("open")


@pytest.fixture(scope="session")
def data_goldens() -> Path:
    """Folder `data_open`: what the official data pipelines make of small records."""
    return _goldens("data_open")


@pytest.fixture(scope="session")
def janus_goldens() -> Path:
    """Folder `janus_open`: what the official Janus-Pro code computes with small random weights."""
    return _goldens("janus_open")


@pytest.fixture(scope="session")
def rl_goldens() -> Path:
    """Folder `rl_open`: values of the formulas of reinforcement."""
    return _goldens("rl_open")


@pytest.fixture(scope="session")
def protocol_goldens() -> Path:
    """Folder `protocols`: what the official scripts of inference ask their model for."""
    return _goldens("protocols")


@pytest.fixture(scope="module", autouse=True)
def _release_programs():
    """Drops compiled programs after each module.

    Every program keeps memory maps of its own; a whole run in one process would reach the
    kernel's limit (vm.max_map_count, 65,530), which ends in a segmentation fault.
    """
    yield
    import jax

    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="module")
def quick_compile():
    """Compiles without XLA's costly optimisations: for modules that compile much and run little.

    It holds to the end of the module, where programs then round otherwise than those of other
    processes; so nothing may compare the two bit for bit.
    """
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def bucket_server():
    """The environment of a bucket that an emulator serves; this process finds it, too."""
    with bucket.emulated() as environment:
        os.environ.update(environment)
        yield environment


@pytest.fixture
def place(bucket_server, request):
    """A folder in the bucket, another for every test."""
    return f"gs://{bucket.NAME}/{request.node.name}-{uuid.uuid4().hex[:6]}"
