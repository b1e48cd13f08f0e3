"""`unireason parity`: are the numbers the official ones?

    unireason parity --goldens ../shared/goldens/open
    unireason parity --goldens DIR --json parity.json
    unireason parity --goldens DIR --dtype bfloat16     inside the recorded bfloat16 envelope?
    unireason parity --goldens ../shared/goldens/janus_open
    unireason parity --goldens ../shared/goldens/data_open     records, packs, images, masks

Prints one row a tensor: relative L2 difference, largest absolute difference, the recording's own
float32-against-float64 deviation, the limit and the verdict; then what was left out and why. The
exit status is 1 when a tensor differs. In float32 the limit is 1e-5 for forward passes, 1e-4 for
gradients and optimiser steps, or ten times the recording's own deviation where that is larger. In
bfloat16 it is the deviation of the official bfloat16 run.

A folder of Janus-Pro (templates.json and a multi_modality config.json) has its own, tighter limits:
5e-6, and 2e-5 for the VQ model and gradients; integers, strings and ids are equal.

A folder of recorded data (it has packs.json) is compared exactly: one row a kind of check, then
what is different on purpose, with its reason and how often it was met.

A folder with rl_values.json is compared with the formulas of reinforcement, in float64.

    unireason parity --goldens ../shared/goldens/protocols     what is sampled, call by call

A folder of recorded protocols (its JSON files say "protocol-1"): every case is walked by the preset
of its script, through the code that `generate` uses with a stand-in for the model. One row a case,
then what differs, or what differs on purpose.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

from unireason_jax.models.archive import Archive
from unireason_jax.proof import protocols
from unireason_jax.proof.data import MARK, compare_data
from unireason_jax.proof.generation import compare_images, compare_text
from unireason_jax.proof.golden import Golden, read
from unireason_jax.proof.janus import is_janus
from unireason_jax.proof.janus_report import compare_janus
from unireason_jax.proof.policies import MARK as POLICY_MARK
from unireason_jax.proof.policies import compare_policies
from unireason_jax.proof.training import (
    compare_autoencoder,
    compare_forward,
    compare_gradients,
    compare_optimiser,
    compare_vit,
)
from unireason_jax.proof.verdicts import Report
from unireason_jax.run import compile_cache
from unireason_jax.storage import atomic

FILES = {
    "vae.safetensors": (compare_autoencoder,),
    "vit.safetensors": (compare_vit,),
    "train_step.safetensors": (compare_forward, compare_gradients, compare_optimiser),
    "textgen.safetensors": (compare_text,),
    "imagegen.safetensors": (compare_images,),
}
IN_BFLOAT16 = (compare_forward, compare_text, compare_images)


def compare(folder: Path, dtype: str = "float32") -> Report:
    """All comparisons of a folder.

    Args:
      folder: a small released checkpoint with recordings.
      dtype: of the matmuls.

    Raises:
      FileNotFoundError, ValueError: the folder holds no recording, or its checkpoint cannot be
        read; the message names file and tensor.
    """
    if is_janus(folder):
        return compare_janus(folder, dtype)
    present = [name for name in FILES if (folder / name).exists()]
    if not present:
        raise FileNotFoundError(f"{folder}: no recordings; looked for {', '.join(FILES)}.")
    golden = Golden(folder, dtype)
    report = Report(folder, envelope(folder) if dtype == "bfloat16" else None)
    for name in present:
        for check in FILES[name]:
            if dtype == "float32" or check in IN_BFLOAT16:
                check(golden, report)
        report.close(name.removesuffix(".safetensors"), Archive(folder / name))
    for name in FILES:
        if name not in present:
            report.exclude(name, "all", "the file is not in the folder")
    return report


def envelope(folder: Path) -> dict[str, float]:
    """Relative deviation of the official bfloat16 run by "file.tensor".

    The recording leaves the prefixes of names out, and adds the first of several logits and
    velocities under a name of its own.
    """
    limits = {}
    for name, value in read(folder / "bf16_envelope.safetensors")[1]["stats"].items():
        file, _, tensor = name.partition(".")
        if tensor == "padded_latent":
            tensor = f"in.{tensor}"
        elif not (tensor.startswith("out.") or "first_logits" in tensor or "[0]" in tensor):
            tensor = f"out.{tensor}"
        limits[f"{file}.{tensor}"] = value["l2_rel"]
    return limits


def compare_recorded_data(folder: Path, output: Path | None) -> int:
    """Prints what is found in a folder of recorded data; returns the exit status."""
    try:
        tally = compare_data(folder)
    except (FileNotFoundError, ValueError, KeyError) as error:
        print(f"error: {folder}: {error}", file=sys.stderr)
        return 2
    print(tally.table())
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(output, json.dumps(tally.to_json(), indent=1) + "\n")
    return 1 if tally.failures else 0


def compare_recorded_protocols(folder: Path, output: Path | None) -> int:
    """Prints what is found in a folder of recorded protocols; returns the exit status."""
    result = protocols.compare_protocols(folder)
    print(result.table())
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(output, result.to_json() + "\n")
    return 1 if result.failures else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="unireason parity",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--goldens", required=True, type=Path, help="folder with recordings")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    given = parser.parse_args(arguments)
    if (given.goldens / MARK).exists():
        return compare_recorded_data(given.goldens, given.json)
    if protocols.found(given.goldens):
        return compare_recorded_protocols(given.goldens, given.json)
    # Dozens of programs that each run once on a few tokens: compiling is all the time there is.
    jax.config.update("jax_disable_most_optimizations", True)
    compile_cache.share()
    try:
        if (given.goldens / POLICY_MARK).exists():
            report = compare_policies(given.goldens)
        else:
            report = compare(given.goldens, given.dtype)
    except (FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report.table())
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(given.json, report.to_json() + "\n")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
