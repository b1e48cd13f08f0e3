"""What the processes of a job tell each other besides device programs; how they end together.

Small texts travel through the key-value store of JAX's coordinator, which works from any thread and
while the devices hang. With one process everything here is immediate and needs no coordinator.
"""

import collections
import contextlib
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import jax
from etils import epath
from jax._src import distributed  # the coordinator's client has no public name

from unireason_jax.storage import lock

_FIRST, _HEARD = "unireason/first_failure", "unireason/heard/"
_SIGHT = 15.0  # seconds after which a shared file system shows what another host has written
_POLL = 1.0  # seconds between two looks for a failure elsewhere
_GRACE = 20.0  # seconds that a failed process waits until the others have heard of it
_SLOWEST = 30 * 24 * 3600.0  # seconds that the first process holds a folder for the others
_ending = threading.Lock()  # whoever holds it ends this process
_calls: collections.Counter[str] = collections.Counter()


def gather(name: str, value: Any, *, timeout: float = 1800.0) -> list[Any]:
    """The values of all processes, by process.

    Args:
      name: every process calls with the same names, each name in one thread only.
      value: anything that JSON holds.
      timeout: seconds to wait for the slowest process.

    Raises:
      jax.errors.JaxRuntimeError: a process did not answer in time.
    """
    count, me = jax.process_count(), jax.process_index()
    if count == 1:
        return [value]
    client, wait = distributed.global_state.client, int(timeout * 1000)
    _calls[name] += 1
    folder = f"unireason/gather/{name}/{_calls[name]}"
    client.key_value_set(f"{folder}/{me}", json.dumps(value))
    if me == 0:  # one process collects, so that n processes send 2 n texts and not n * n
        texts = [client.blocking_key_value_get(f"{folder}/{n}", wait) for n in range(count)]
        client.key_value_set(f"{folder}/all", f"[{','.join(texts)}]")
    return json.loads(client.blocking_key_value_get(f"{folder}/all", wait))


def first_alone(name: str, make: Callable[[], Any]) -> Any:
    """What `make` returns, called in the first process before it is in the others.

    So that what it keeps in files is made once, and found by them.

    Args:
      name: as that of `gather`.
      make: called once in every process.
    """
    me = jax.process_index()
    made = make() if me == 0 else None
    gather(name, None, timeout=_SLOWEST)
    return made if me == 0 else make()


def same(name: str, value: str, remedy: str) -> None:
    """Raises ValueError in all processes where one has another value than the first.

    Args:
      name: what it is, which `gather` is given too.
      value: that of this process.
      remedy: end of the message.
    """
    found = gather(name, value)
    if other := [number for number, theirs in enumerate(found) if theirs != found[0]]:
        raise ValueError(f"process {other[0]} has another {name} than process 0: {remedy}")


@contextlib.contextmanager
def holding(folder: epath.PathLike, command: str, *, seen: bool = False) -> Iterator[None]:
    """`lock.hold` for a whole job: its first process holds the folder until all have left.

    All processes must call it; where the folder is held by another job, all are refused.

    Args:
      folder, command: as those of `lock.hold`.
      seen: every process has to see the same folder, which is found out now, in seconds.

    Raises:
      FolderBusy: another command holds the folder, or it cannot be written.
      ValueError: a process sees another folder under that name than the first one does.
    """
    with contextlib.ExitStack() as stack:
        refused = word = None
        if jax.process_index() == 0:
            try:
                stack.enter_context(lock.hold(folder, command))
                word = lock.token(folder)
            except (lock.FolderBusy, OSError) as error:
                refused = str(error)
        refused, word = gather(f"hold {folder}", [refused, word])[0]
        if refused:
            raise lock.FolderBusy(refused)
        sights = gather(f"see {folder}", _sees(folder, word)) if seen else []
        if blind := [number for number, found in enumerate(sights) if not found]:
            raise ValueError(
                f"process {blind[0]} does not see {folder} as process 0 does: give a folder that "
                "all hosts see, in a bucket (gs://...) or on a shared file system"
            )
        yield
        gather(f"leave {folder}", None, timeout=_SLOWEST)


def _sees(folder: epath.PathLike, word: str) -> bool:
    """Whether the lock that the first process holds is seen here, at the latest after a while."""
    until = time.monotonic() + _SIGHT
    while lock.token(folder) != word:
        if time.monotonic() > until:
            return False
        time.sleep(_POLL / 2)
    return True


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Makes the first error of any process end all of them, and be what they show.

    Without it an error on one host leaves the others waiting in a collective, and what they print
    minutes later (a lost peer, a missed heartbeat) hides the cause. With it a process that fails
    says so, waits until the others have heard, and leaves with status 1; the others print its
    traceback and leave with status 1 too. With one process errors pass through untouched.
    """
    if jax.process_count() == 1:
        yield
        return
    done = threading.Event()
    threading.Thread(target=_listen, args=(done,), name="failures elsewhere", daemon=True).start()
    try:
        yield
    except SystemExit as leaving:
        if leaving.code:
            fail(str(leaving.code), getattr(leaving, "status", 1))
    except lock.FolderBusy as busy:
        fail(str(busy))  # all of them hear it, in one line
    except BaseException as error:
        fail("".join(traceback.format_exception(error)))
    finally:
        done.set()


def fail(reason: str, status: int = 1, *, dead: int | None = None) -> None:
    """Ends this process with a status and all others of the job with 1; each shows the reason.

    Nobody waits for the process `dead` to hear it.
    """
    _ending.acquire()
    me, count = jax.process_index(), jax.process_count()
    _say(f"PROCESS {me} OF {count} FAILED, THE JOB ENDS:\n{reason}")
    if count > 1:
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # the dead one may be the coordinator
            _publish(_FIRST, f"{me}\n{reason}")
            if dead is not None:
                _publish(f"{_HEARD}{dead}", "never")
            _leave_with_the_others()
    os._exit(status)


def _publish(key: str, text: str) -> None:
    """Sets a key unless another process was faster."""
    try:
        distributed.global_state.client.key_value_set(key, text)
    except jax.errors.JaxRuntimeError as error:
        if "ALREADY_EXISTS" not in str(error):
            raise


def _leave_with_the_others() -> None:
    """Returns once every process has heard, or after the grace period; in the coordinator last.

    JAX aborts a process that loses its coordinator.
    """
    client, me = distributed.global_state.client, jax.process_index()
    _publish(f"{_HEARD}{me}", "yes")
    deadline = time.monotonic() + _GRACE
    while (
        time.monotonic() < deadline and len(client.key_value_dir_get(_HEARD)) < jax.process_count()
    ):
        time.sleep(_POLL / 5)
    time.sleep(_POLL if me == 0 else 0)


def _listen(done: threading.Event) -> None:
    """Ends this process when another one has failed."""
    client, me = distributed.global_state.client, jax.process_index()
    while not done.wait(_POLL):
        try:
            who, _, reason = client.key_value_try_get(_FIRST).partition("\n")
        except jax.errors.JaxRuntimeError:
            continue  # nobody has failed
        if _ending.acquire(blocking=False):
            _say(f"process {me} ends because PROCESS {who} FAILED:\n{reason}")
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                _leave_with_the_others()
            os._exit(1)
        return  # this process is ending by itself


def _say(text: str) -> None:
    """Prints a text to stderr in one piece, behind what stdout still holds."""
    sys.stdout.flush()
    sys.stderr.write(text.rstrip() + "\n")
    sys.stderr.flush()
