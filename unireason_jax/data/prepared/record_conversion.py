"""The job of `prepare`: rows of files to records with their images inside, or reasons why not."""

import dataclasses
import os
from collections.abc import Iterator

from unireason_jax.data import images
from unireason_jax.data.bagel.tokens import SampleSpec, lengths
from unireason_jax.data.files.base import said
from unireason_jax.data.files.streams import FileRecords, IndexedRecords, Piece
from unireason_jax.data.prepared import serialization
from unireason_jax.data.prepared.shards import Kept, Refused
from unireason_jax.data.records import Record, RecordError, Segment

LYING = "pictures that EXIF turns"
"""What records are counted under whose pictures are kept as they are stored, not as looked at."""


@dataclasses.dataclass(frozen=True)
class Conversion:
    """The job of one shard: records with their images inside that can be measured, or why not.

    Attributes:
      records: where they come from.
      spec: what measures them.
      upright: keep photographs as their EXIF says that they are looked at.
    """

    records: FileRecords | IndexedRecords
    spec: SampleSpec
    upright: bool = False

    def __call__(self, pieces: tuple[Piece, ...]) -> Iterator[Kept | Refused]:
        """The entries of the shard that `pieces` make, in order."""
        for piece in pieces:
            for source, name, found, count in self.records.records(piece):
                if isinstance(found, RecordError):
                    yield Refused(source, name, found.reason, count)
                    continue
                try:
                    yield self._kept(found)
                except RecordError as error:
                    yield Refused(source, name, error.reason)
                except Exception as error:  # one odd record must not end the work on all others
                    yield Refused(source, name, f"{type(error).__name__}: {said(error)}")

    def _kept(self, found: Record) -> Kept:
        record = with_images(found, upright=self.upright)
        if not any(s.loss != "none" or s.next != "none" for s in record.segments):
            raise RecordError(record.id, None, "nothing in it is learned; set a loss")
        counts = (f"template {record.source}", f"licence {record.licence or 'unknown'}")
        if not self.upright and any(images.is_turned(s.image) for s in _shown(record)):
            counts += (LYING,)
        return Kept(serialization.to_bytes(record), lengths(record, self.spec), counts)


def _shown(record: Record) -> list[Segment]:
    return [segment for segment in record.segments if segment.image is not None]


def with_images(record: Record, *, upright: bool = False) -> Record:
    """The record with file contents instead of paths, every image decoded once as a check.

    With `upright`, photographs that their EXIF turns are kept turned, as PNG.

    Raises:
      RecordError: an image cannot be used.
    """
    segments = list(record.segments)
    for number, segment in enumerate(segments):
        image = segment.image
        if image is None:
            continue
        try:
            pixels = images.load(image, upright=upright)
            if upright and images.is_turned(image):
                image = images.encoded(pixels)
            elif isinstance(image, str | os.PathLike):
                image = images.read(image)
        except (ValueError, OSError) as error:
            raise RecordError(record.id, number, str(error)) from error
        segments[number] = dataclasses.replace(segment, image=image)
    return dataclasses.replace(record, segments=tuple(segments))
