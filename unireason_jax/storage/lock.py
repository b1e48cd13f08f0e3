"""One command in a folder at a time: the second is told who is there, in one line.

    <folder>/.lock      who holds the folder, and a beat that moves while it lives

Between the processes of one machine the operating system decides: its lock on the file ends with
the process that holds it, however that ends, and the next command goes on at once. Of a holder on
another machine (a shared file system, a bucket) process ids and such locks say nothing: there the
beat decides. It moves every `BEAT` seconds; a holder whose beat stands still for `PATIENCE` seconds
is dead, and its lock is taken over. Clocks are not compared. A holder that finds another name in
its lock (it was suspended for too long) ends at once: two would be writing.
"""

import contextlib
import functools
import inspect
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from etils import epath

from unireason_jax.storage import paths

try:
    import fcntl
except ImportError:  # Windows has other locks; there the beat decides
    fcntl = None

FILE = ".lock"
BEAT, PATIENCE = 5.0, 30.0
T = TypeVar("T", bound=Callable)
_BYTES = 512  # a lock's content is overwritten in place, so it always has one length


class FolderBusy(ValueError):
    """Another command holds the folder; the message is one line that says which, and where."""


@contextlib.contextmanager
def hold(folder: epath.PathLike, command: str) -> Iterator[None]:
    """Keeps other commands out of a folder until the block ends.

    Args:
      folder: made where it is missing, and removed again where nothing came into it.
      command: what others are told is running, such as "unireason train".

    Raises:
      FolderBusy: another process, of any machine, holds it.
    """
    place = _Local(Path(folder)) if paths.is_local(folder) else _Bucket(paths.of(folder))
    holder = {
        "command": command,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "machine": _machine(),
        "processes": _processes(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "token": uuid.uuid4().hex,
        "beat": 0,
    }
    done = threading.Event()
    try:
        _enter(place, folder, holder)
        beating = threading.Thread(target=_beat, args=(place, folder, holder, done), daemon=True)
        beating.start()
        try:
            yield
        finally:
            done.set()
            beating.join()
            if (place.read() or holder)["token"] == holder["token"]:
                place.remove()
    finally:
        place.close()


def token(folder: epath.PathLike) -> str | None:
    """The word that stands for the one who holds a folder, as seen from here; None for nobody."""
    place = _Local(Path(folder)) if paths.is_local(folder) else _Bucket(paths.of(folder))
    return (place.read() or {}).get("token")


def alone(command: str, folder: str) -> Callable[[T], T]:
    """Decorates a function that must not run twice at once in the folder that an argument names.

    Args:
      command: see `hold`.
      folder: the argument's name, or that of an attribute of it, as "arguments.out". Nothing is
        held where it is None.
    """
    argument, _, attribute = folder.partition(".")

    def decorate(function: T) -> T:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def held(*given: Any, **named: Any) -> Any:
            place = signature.bind(*given, **named).arguments[argument]
            place = getattr(place, attribute) if attribute else place
            with contextlib.nullcontext() if place is None else hold(place, command):
                return function(*given, **named)

        return held

    return decorate


def _enter(place: "_Local | _Bucket", folder: epath.PathLike, holder: dict[str, Any]) -> None:
    """Makes `holder` the one whose name stands in the lock, or raises FolderBusy."""
    decided = place.take()
    while other := place.read():
        if decided is False:
            raise _busy(folder, other)
        if decided and other["machine"] == holder["machine"]:
            other = None  # a dead process of this machine has left it
            break
        if decided is None and _is_gone(other, holder):
            break
        if _has_died(place, folder, other):
            break
        place.close()  # it ended, and its lock went with it
        decided = place.take()
    if decided is False:
        raise _busy(folder, None)
    place.write(holder)
    if other or not decided:  # two may have come in the same moment: the last name stands
        time.sleep(place.settles)
        first = place.read()
        if first and first["token"] != holder["token"]:
            raise _busy(folder, first)


def _has_died(place: "_Local | _Bucket", folder: epath.PathLike, other: dict[str, Any]) -> bool:
    """Whether a holder elsewhere stands still; False when it ends, FolderBusy when it lives."""
    print(
        f"{folder} was in use by {_told(other)}; looking for up to {PATIENCE:.0f} s whether it "
        "still is",
        file=sys.stderr,
        flush=True,
    )
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        time.sleep(min(1.0, PATIENCE / 10))
        now = place.read()
        if now is None and not place.path.exists():
            return False
        if now and (now["token"], now["beat"]) != (other["token"], other["beat"]):
            raise _busy(folder, now)
    return True


def _beat(place, folder: epath.PathLike, holder: dict[str, Any], done: threading.Event) -> None:
    """Moves the beat; ends this process where another one has taken the lock over."""
    while not done.wait(BEAT):
        try:
            other = place.read()
            if other and other["token"] != holder["token"]:
                sys.stderr.write(
                    f"error: {folder} was taken over by {_told(other)} while this process stood "
                    "still; it ends so that both do not write\n"
                )
                sys.stderr.flush()
                os._exit(1)
            holder["beat"] += 1
            place.write(holder)
        except Exception:  # of a file system, or of the library of a bucket
            continue  # it does not answer: the next beat tells


def _busy(folder: epath.PathLike, other: dict[str, Any] | None) -> FolderBusy:
    who = _told(other) if other else "another process that is just starting"
    return FolderBusy(
        f"{folder} is in use by {who}; let it finish or stop it, or give another folder"
    )


def _told(other: dict[str, Any]) -> str:
    return (
        f"'{other['command']}' (process {other['pid']} on {other['host']}, since {other['since']})"
    )


def _machine() -> str:
    """What tells this running machine from all others; a restart makes it another one."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"{socket.gethostname()}-{uuid.getnode():x}"


def _processes() -> str:
    """What tells the processes of this container from those of others on this machine."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _is_gone(other: dict[str, Any], holder: dict[str, Any]) -> bool:
    """Whether a holder was a process of this very machine and container, and has ended."""
    here = ("machine", "processes")
    if not holder["processes"] or any(other.get(key) != holder[key] for key in here):
        return False
    return not os.path.exists(f"/proc/{other['pid']}")


def _content(text: str) -> dict[str, Any] | None:
    """A holder as it stands in the lock; None where it has not been written yet."""
    try:
        found = json.loads(text)
        return found if {"machine", "token", "beat", "pid", "host"} <= found.keys() else None
    except (ValueError, AttributeError):
        return None


class _Local:
    """The lock of a folder on a file system."""

    settles = 0.2

    def __init__(self, folder: Path):
        self.path, self._file = folder / FILE, None
        self._made = not folder.exists()

    def take(self) -> bool | None:
        """Whether the operating system gives the lock; None where it has none to give."""
        while True:
            self._file = self._open()
            try:
                if fcntl is None:
                    return None
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            except OSError:
                return None
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._file), os.stat(self.path)):
                    return True
            os.close(self._file)  # its holder ended and removed it between the two calls

    def _open(self) -> int:
        while True:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # a holder has just removed its folder
                return os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)

    def read(self) -> dict[str, Any] | None:
        try:
            return _content(self.path.read_text("utf-8"))
        except (OSError, ValueError):
            return None

    def write(self, holder: dict[str, Any]) -> None:
        text = json.dumps(holder).encode()
        os.lseek(self._file, 0, os.SEEK_SET)
        os.write(self._file, text + b" " * max(0, _BYTES - len(text) - 1) + b"\n")

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            self.path.unlink()

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
        if self._made:
            with contextlib.suppress(OSError):
                self.path.parent.rmdir()


class _Bucket:
    """The lock of a folder in a bucket: an object whose last writer stands in it."""

    settles = 2.0

    def __init__(self, folder: paths.Bucket):
        self.path = folder / FILE

    def take(self) -> None:
        return None

    def read(self) -> dict[str, Any] | None:
        try:
            return _content(self.path.read_text())
        except FileNotFoundError:
            return None

    def write(self, holder: dict[str, Any]) -> None:
        try:
            self.path.write_text(json.dumps(holder))
        except Exception as error:  # the libraries of buckets raise what they like
            kind = FileNotFoundError if isinstance(error, FileNotFoundError) else OSError
            told = " ".join(str(error).split())[:200]
            raise kind(
                f"{self.path.parent} cannot be written ({told}); is there such a bucket, and may "
                "these credentials write to it?"
            ) from None

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        pass
