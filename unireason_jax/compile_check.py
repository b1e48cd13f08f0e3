"""`unireason compile_check`: compiles the real program for a pod that is not there, and reports.

    unireason compile_check --config configs/tiny.py --topology cpu:8
    unireason compile_check --config F --topology v5p:2x2x4 --config.mesh.preset=v5p
    unireason compile_check --config F --topology v6e:16x16 --program image
    unireason compile_check --config F --topology v5p:2x2x4 --quick
    unireason compile_check --table launch/compile_reports

TPU topologies need libtpu (pip install 'unireason-jax[tpu]'), not a TPU. Reported are memory of one
device against its capacity, useful and compiled FLOPs with loops multiplied out, every collective
and whether work overlaps it, arrays of tokens x tokens, the partitioner's complaints, and what
step time and MFU the data sheet's rates allow. With --quick the compiler is stopped when memory is
assigned: the same report in a tenth of the time for TPUs, but what only machine code shows, such as
a kernel that needs more scratch memory than there is, is not found. Saved as JSON and Markdown
under --out. Ends with status 1 and says why when the program does not fit.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import app, flags
from ml_collections import config_flags

from unireason_jax.compilation import programs, summary, topology
from unireason_jax.compilation.check import DoesNotFit, check, require_fit, save
from unireason_jax.run import overrides
from unireason_jax.run.configuration import ConfigError

CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, e.g. configs/tiny.py.")
TOPOLOGY = flags.DEFINE_string("topology", None, "accelerator:chips[*slices], e.g. v5p:2x2x4.")
PROGRAM = flags.DEFINE_enum("program", "train", list(programs.PROGRAMS), "What to compile.")
QUICK = flags.DEFINE_bool("quick", False, "Stop when memory is assigned, before machine code.")
NAME = flags.DEFINE_string("name", None, "Name of the report; by default config and program.")
OUT = flags.DEFINE_string("out", "compile_reports", "Folder of the reports.")
TABLE = flags.DEFINE_string("table", None, "Only print the table of a folder's reports.")


def main(argv: list[str]) -> None:
    """Settles the flags, compiles, prints and saves."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}; flags start with --.")
    try:
        if TABLE.value:
            print(summary.table(Path(TABLE.value)), end="")
            return
        if CONFIG.value is None or not TOPOLOGY.value:
            raise app.UsageError("--config=<file> and --topology=<accelerator:chips> are needed.")
        topology.be_a_host(TOPOLOGY.value)
        path = config_flags.get_config_filename(flags.FLAGS["config"])
        name = NAME.value or f"{Path(path).stem} {PROGRAM.value}"
        found = check(CONFIG.value, TOPOLOGY.value, PROGRAM.value, name=name, quick=QUICK.value)
        conclude(found, Path(OUT.value))
    except (ConfigError, ValueError, FileNotFoundError, DoesNotFit) as error:
        raise SystemExit(f"error: {error}") from error


def conclude(found: Mapping[str, Any], folder: Path) -> None:
    """Saves and prints the report of a program.

    Raises:
      DoesNotFit: it needs more memory than a device has; the report is saved all the same.
    """
    report = save(found, folder)
    print(report.read_text(), end="")
    print(f"saved: {report} and {report.with_suffix('.json').name}")
    require_fit(found)


if __name__ == "__main__":
    own = (CONFIG, TOPOLOGY, PROGRAM, QUICK, NAME, OUT, TABLE)
    app.run(main, flags_parser=functools.partial(overrides.parse_flags, about=__doc__, own=own))
