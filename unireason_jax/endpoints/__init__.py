"""What speaks HTTP: chat, pictures and rewards, with limits, retries, a journal and a bill."""

import importlib.util

_LIBRARIES = ("aiohttp", "aiolimiter", "pydantic")


def needed(by: str) -> None:
    """Raises ValueError that says what to install, where `by` needs what is not there."""
    lacking = [name for name in _LIBRARIES if importlib.util.find_spec(name) is None]
    if lacking:
        raise ValueError(
            f"{by} needs {', '.join(lacking)}: pip install 'unireason-jax[endpoints]'."
        )
