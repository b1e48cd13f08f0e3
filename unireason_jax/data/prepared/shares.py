"""One prepared folder from many machines: each makes a share of its shards, one finishes.

    unireason prepare ... --share 3/8      on the third of eight machines, in any order, at any time
    unireason prepare ... --finish         when all have ended

A shard is a function of its task, so who made it does not show, and the finished folder is that of
one machine to the byte. Machines need nothing of each other but the folder: what has been done is
in its notes. A share that was interrupted, or took more than its machine's time, is started again.
"""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unireason_jax.data.prepared import shards
from unireason_jax.storage import atomic, lock, paths

_NAMED = 8


class Share(NamedTuple):
    """Part `number` of `total`, counted from 1."""

    number: int
    total: int

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"

    @property
    def shards(self) -> slice:
        """The shards of this share: every `total`-th."""
        return slice(self.number - 1, None, self.total)


def parse(text: str) -> Share | None:
    """The share that `i/n` means; None for an empty text.

    Raises:
      ValueError: it means none.
    """
    if not text:
        return None
    number, slash, total = text.partition("/")
    if not (slash and number.isdecimal() and total.isdecimal() and 1 <= int(number) <= int(total)):
        raise ValueError(f"--share {text!r} is no share; write i/n with 1 <= i <= n")
    return Share(int(number), int(total))


@contextlib.contextmanager
def joining(
    folder: Path | paths.Bucket, request: dict[str, Any], share: Share, command: str
) -> Iterator[None]:
    """Opens a folder for one of its shares, beside the others; at the end the share is noted.

    Raises:
      FileExistsError: the folder holds a finished result, or the work on another request.
      FolderBusy: the same share is being made elsewhere.
    """
    shards.begin(folder, request, joined=True)
    own = folder / shards.NOTES / f"share-{share.number}-of-{share.total}"
    with lock.hold(own, command):
        yield
        atomic.write_text(own.with_suffix(".json"), json.dumps(share._asdict()))


def check_finished(folder: Path | paths.Bucket, planned: int) -> None:
    """Whether every shard of a folder is there, whoever made it.

    Raises:
      ValueError: nobody has begun, or some are missing; the message names their shares.
    """
    if not shards.is_unfinished(folder):
        raise ValueError(f"{folder}: no share has been begun there; give --share i/n first")
    made = {path.name for path in (folder / shards.NOTES).glob("[0-9]*.json")}
    missing = [n for n in range(planned) if shards.note(folder, n).name not in made]
    if missing:
        raise ValueError(
            f"{folder}: {len(missing)} of {planned} shards are not made{_whose(folder, missing)}; "
            "run these again, then --finish"
        )


def _whose(folder: Path | paths.Bucket, missing: Sequence[int]) -> str:
    """Which shares the missing shards belong to, as far as the finished ones tell."""
    notes = sorted((folder / shards.NOTES).glob("share-*-of-*.json"))
    totals = {json.loads(path.read_text())["total"] for path in notes}
    if len(totals) != 1:
        return f" (numbers {', '.join(map(str, missing[:_NAMED]))}, ...)"
    total = totals.pop()
    late = [str(Share(n + 1, total)) for n in sorted({number % total for number in missing})]
    more = f" and {len(late) - _NAMED} more" if len(late) > _NAMED else ""
    return f", of the shares {', '.join(late[:_NAMED])}{more}"
