"""All comparisons of a folder of recorded data, by the files that they need."""

from pathlib import Path

from unireason_jax.proof import packs, pixels, published_rows
from unireason_jax.proof.recorded import Recorded
from unireason_jax.proof.tally import Tally

MARK = "packs.json"
"""The file that makes a folder one of recorded data."""

CHECKS = (
    (pixels.compare_strings, ("tokenizer", "tokenizer_cases.json", "samples.json")),
    (pixels.compare_files, ("images", "images.json", "rgb.json")),
    (pixels.compare_sizes, ("resize_table.json",)),
    (pixels.compare_transforms, ("images", "images.json", "rgb.json", "images_u8.npz")),
    (pixels.compare_probes, ("real_settings_probe.json", "resize_table.json", "rgb.json")),
    (pixels.compare_positions, ("position_ids.json",)),
    (packs.compare_packs, ("packs.npz", "samples.json", "masks.npz", "images_u8.npz")),
    (published_rows.compare_rows, ("records", "packs.npz", "samples.json", "rgb.json")),
    (published_rows.compare_supervision, ("records", "samples.json")),
    (published_rows.compare_broken, ("records/broken/cases.json", "broken.json")),
    (published_rows.compare_packer, ("packer_runs.json",)),
    (published_rows.compare_orders, ("order.json",)),
)


def compare_data(folder: Path) -> Tally:
    """All comparisons that the folder has files for.

    Raises:
      FileNotFoundError, ValueError, KeyError: the folder is not laid out as the recordings are.
    """
    recorded, tally = Recorded(folder), Tally()
    for check, needed in CHECKS:
        if absent := [name for name in needed if name not in recorded]:
            tally.exclude(f"{check.__name__}: {', '.join(absent)} not in the folder")
        else:
            check(recorded, tally)
    return tally
