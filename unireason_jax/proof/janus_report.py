"""All comparisons of a folder of Janus-Pro recordings."""

from pathlib import Path

from unireason_jax.models.archive import Archive
from unireason_jax.proof.janus import (
    JanusGolden,
    compare_pictures,
    compare_prompts,
    envelope,
)
from unireason_jax.proof.janus_network import (
    compare_conversations,
    compare_drawings,
    compare_tower,
    compare_vq,
)
from unireason_jax.proof.janus_training import compare_gradients, compare_step
from unireason_jax.proof.verdicts import Report

FILES = {
    "processor": (compare_pictures,),
    "vision": (compare_tower,),
    "vq": (compare_vq,),
    "understanding": (compare_conversations,),
    "train_step": (compare_step, compare_gradients),
    "t2i": (compare_drawings,),
}
IN_BFLOAT16 = (compare_tower, compare_vq, compare_conversations, compare_drawings)


def compare_janus(folder: Path, dtype: str = "float32") -> Report:
    """All comparisons of a folder.

    Args:
      folder: a small released checkpoint with recordings.
      dtype: of the matmuls; the VQ model is float32 always.

    Raises:
      FileNotFoundError, ValueError: the checkpoint cannot be read, or a file is missing.
    """
    golden, exact = JanusGolden(folder, dtype), dtype == "float32"
    report = Report(folder, None if exact else envelope(folder), margin=0.0)
    compare_prompts(golden, report)
    for name, checks in FILES.items():
        path = folder / f"{name}.safetensors"
        if not path.exists():
            report.exclude(name, "all", "the file is not in the folder")
            continue
        for check in checks:
            if exact or check in IN_BFLOAT16:
                check(golden, report)
        report.close(name, Archive(path))
    return report
