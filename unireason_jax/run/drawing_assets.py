"""What a run keeps of its records for sampling: the autoencoder, and the size of their pictures."""

import collections
import json
import os
import shutil
from collections.abc import Iterable

from etils import epath
from ml_collections import ConfigDict

from unireason_jax.data import images
from unireason_jax.data.bagel.latents import check
from unireason_jax.data.bagel.tokens import LatentCodec, SampleSpec
from unireason_jax.data.image_sizes import SizeCodec
from unireason_jax.data.mixture import RecordSource
from unireason_jax.data.records import Record
from unireason_jax.data.sources import ArrayRecordSource, is_prepared
from unireason_jax.models import vae
from unireason_jax.run import corpus
from unireason_jax.storage import atomic

AUTOENCODER, PICTURES = "ae.safetensors", "pictures.json"
_LOOKED_AT = 32  # records of a source


def autoencoder(config: ConfigDict) -> epath.Path | None:
    """The file of a run's autoencoder: `data.vae`, else the one that encoded its records.

    That one lies beside the latents, where `encode` keeps it, or in the workdir of `init_from`.

    Raises:
      ValueError: the one of `init_from` is not the one that encoded the records.
    """
    if config.data.vae:
        return epath.Path(config.data.vae)
    folders = [path for path in corpus.folders(config).values() if is_prepared(path)]
    encoded = [folder for folder in folders if "latents" in ArrayRecordSource(folder).manifest]
    for folder in encoded:
        if (folder / AUTOENCODER).exists():
            return epath.Path(folder / AUTOENCODER)
    start = epath.Path(config.init_from or "scratch")
    for place in (start, *start.parents[:2]) if encoded else ():
        if (place / AUTOENCODER).exists():
            codec = vae.Autoencoder(*vae.load(place / AUTOENCODER))
            check(ArrayRecordSource(encoded[0]).manifest, codec, str(encoded[0]))
            return place / AUTOENCODER
    return None


def complaint(config: ConfigDict, codec: LatentCodec, workdir: epath.PathLike) -> str:
    """What has to be said of a run that nothing can be drawn with; empty for the others."""
    there = (epath.Path(workdir) / AUTOENCODER).exists()
    if there or not isinstance(codec, SizeCodec) or autoencoder(config):
        return ""
    return (
        "No autoencoder: this run learns from latents, but nothing can be drawn with it until the "
        f"{AUTOENCODER} that made them lies in {workdir}. `unireason encode`, run again, keeps it "
        "beside the latents; --config.init_from brings that of a release."
    )


def keep_autoencoder(file: epath.PathLike, folder: epath.PathLike) -> None:
    """Puts an autoencoder and its configuration, if it has one, into a folder.

    Within one file system nothing is copied.
    """
    file, folder = epath.Path(file), epath.Path(folder)
    for source, name in ((file, AUTOENCODER), (file.parent / vae.CONFIG, vae.CONFIG)):
        if not source.exists() or source == folder / name:
            continue
        with atomic.replacing(folder / name) as part:
            part.unlink(missing_ok=True)  # may be another name of the source already
            try:
                os.link(source, part)
            except OSError:
                with source.open("rb") as read, part.open("wb") as write:
                    shutil.copyfileobj(read, write, 1 << 24)


def keep_size(config: ConfigDict, spec: SampleSpec, workdir: epath.PathLike) -> None:
    """Notes at what size the run's records draw their pictures; of the world, its config tells."""
    if config.data.source == "world":
        return
    if size := usual_size(corpus.make_sources(config, seed=config.data.seed)[0].values(), spec):
        atomic.write_text(epath.Path(workdir) / PICTURES, json.dumps({"size": size}) + "\n")


def usual_size(sources: Iterable[RecordSource], spec: SampleSpec) -> tuple[int, int] | None:
    """(height, width) in pixels that records draw pictures at most often, by some of them."""
    counts: collections.Counter[tuple[int, int]] = collections.Counter()
    for source in sources:
        step = max(len(source) // _LOOKED_AT, 1)
        for index in range(0, len(source), step)[:_LOOKED_AT]:
            try:
                counts.update(_sizes(source[index], spec))
            except (ValueError, OSError):
                continue  # is told where it is trained on
    return counts.most_common(1)[0][0] if counts else None


def _sizes(record: Record, spec: SampleSpec) -> list[tuple[int, int]]:
    """(height, width) in pixels of the images that a record teaches to draw."""
    found = []
    for segment in record.segments:
        if segment.loss != "flow":
            continue
        if segment.moments is not None:
            rows, columns = segment.moments.shape[1:3]
            found.append((rows * spec.codec.stride, columns * spec.codec.stride))
        else:
            width, height = images.size(segment.image, spec.image_root)
            if spec.latent_resize:
                width, height = spec.latent_resize(width, height)
            found.append((height, width))
    return found


def size_of(workdir: epath.PathLike) -> tuple[int, int] | None:
    """(height, width) in pixels that a run draws at; None where it keeps none."""
    file = epath.Path(workdir) / PICTURES
    if not file.exists():
        return None
    try:
        height, width = json.loads(file.read_text())["size"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{file}: damaged; remove it, and give --size.") from None
    return height, width
