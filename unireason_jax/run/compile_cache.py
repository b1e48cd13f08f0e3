"""One folder of compiled programs for all verbs, so that a second start compiles nothing.

The folder is `$UNIREASON_CACHE`, by default `unireason` in the user's cache folder
(`$XDG_CACHE_HOME` or `~/.cache`); `UNIREASON_CACHE=` (empty) keeps none. JAX's own
`JAX_COMPILATION_CACHE_DIR` goes before both. Programs for CPUs hold instructions of the processor
that compiled them, so each kind of processor has a folder of its own.
"""

import hashlib
import os
import platform
import sys
import tempfile
from pathlib import Path

from unireason_jax.storage import paths

VARIABLE = "UNIREASON_CACHE"
SMALL_TOO = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": 0.0,
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": -1,
}
LIMIT = 4 << 30  # bytes; what was used longest ago goes first


def folder() -> Path | None:
    """Where compiled programs of this machine's kind are kept; None where none are wanted."""
    chosen = os.environ.get(VARIABLE)
    if chosen is None:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return base / "unireason" / "compiled" / machine()
    return Path(chosen).expanduser().absolute() / machine() if chosen else None


def machine() -> str:
    """A short name of the processor's kind: architecture, and a hash of what it can do."""
    return f"{platform.machine()}-{hashlib.sha256(_abilities().encode()).hexdigest()[:12]}"


def _abilities() -> str:
    """Model and instruction sets as Linux tells them, else the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    told = {}
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "flags", "Features", "CPU part"):
            told.setdefault(name.strip(), value.strip())
    return str(sorted(told.items()))


def share(default: os.PathLike | None = None) -> os.PathLike | None:
    """Lets this process and its children keep and find compiled programs.

    Works before and after JAX's import. A folder that cannot be written is left out with one line,
    since a run does not need it.

    Args:
      default: where to keep them unless a variable says so, instead of the user's folder: one
        that all processes of a job see, because only the first of them writes.

    Returns:
      The folder, or None where none is kept.
    """
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    path = default / machine() if default and VARIABLE not in os.environ else folder()
    if path is None:
        return None
    try:
        path.mkdir(parents=True, exist_ok=True)
        if paths.is_local(path):
            with tempfile.TemporaryFile(dir=path):
                prune(Path(path))
    except OSError as error:
        print(f"no compile cache: {error}; set {VARIABLE} to a folder.", file=sys.stderr)
        return None
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(path)
    for name, value in SMALL_TOO.items():
        os.environ.setdefault(name, str(value))
    if "jax" in sys.modules:  # it has read its environment already
        _tell_jax(path)
    return path


def _tell_jax(path: Path) -> None:
    """Sets the options where JAX is running; it may have decided already that there is none."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    for name, value in SMALL_TOO.items():
        jax.config.update(name.lower(), type(value)(os.environ[name]))
    jax.config.update("jax_compilation_cache_dir", str(path))
    compilation_cache.reset_cache()


def prune(path: Path, limit: int = LIMIT) -> None:
    """Removes the programs that were used longest ago until the folder holds `limit` bytes."""
    found = []
    for file in path.iterdir():
        try:
            found.append((file.stat(), file))
        except OSError:
            continue  # another process has just removed it
    total = sum(stat.st_size for stat, _ in found)
    for stat, file in sorted(found, key=lambda pair: max(pair[0].st_atime, pair[0].st_mtime)):
        if total <= limit:
            return
        file.unlink(missing_ok=True)
        total -= stat.st_size
