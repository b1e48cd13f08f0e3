"""What the compiler of an accelerator is told besides the program: collectives beside other work.

The table is compiler_flags.txt. The scripts of launch/ read it too and set the variable for the
processes that they start; `compile_check` compiles with it, so a report is of the program that
runs. Whoever sets the variable, to nothing as well, has said something else.
"""

from pathlib import Path

TABLE = Path(__file__).with_suffix(".txt")
TPU, GPU = "LIBTPU_INIT_ARGS", "XLA_FLAGS"


def flags(accelerator: str) -> str:
    """The flags of an accelerator (v4, v5e, v5p, v6e, tpu7x) in one text; "" for others."""
    rows = (line.split() for line in TABLE.read_text().splitlines() if line.startswith("v"))
    return " ".join(flag for names, flag in rows if accelerator in names.split(","))
