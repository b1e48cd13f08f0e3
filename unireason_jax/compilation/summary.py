"""The report of a compiled program as Markdown, and the table of many."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_COLUMNS = (
    "program",
    "topology",
    "chips",
    "mesh",
    "tokens/row",
    "peak / capacity GiB",
    "margin",
    "compiled / (model + recomputed)",
    "GiB on the wire, waiting",
    "KiB/token",
    "step bound s",
    "MFU bound",
    "compiler",
)
_QUICK = "It was stopped when memory was assigned (`--quick`): there is no machine code of it."


def markdown(found: Mapping[str, Any]) -> str:
    """One program's report."""
    memory, compiler = found["memory"], dict(found["compiler"])
    told, micro = compiler.pop("flags", ""), found["rows"] // found["microbatches"]
    lines = [
        f"# {found['program']} on {found['topology']}",
        "",
        f"{found['config']}; {found['device']}; {found['parameters']:,} parameters; mesh "
        f"{found['mesh']}; {found['rows']} rows of {found['tokens']:,} tokens, {micro} at once; "
        f"remat {found['remat']}; {_versions(compiler)}; lowered and compiled in "
        f"{found['seconds']:.0f} s ({found['cpu_seconds']:.0f} CPU-seconds).",
        "",
        f"The compiler was told: `{told}`." if told else "The compiler was told nothing more.",
        *([_QUICK] if found.get("quick") else []),
        "",
        "| memory of one device | GiB |",
        "|---|---|",
        *(
            f"| {name.removesuffix('_gib')} | {memory[name]:.2f} |"
            for name in memory
            if "gib" in name
        ),
    ]
    if "margin" in memory:
        lines += ["", f"Free at the peak: {memory['margin']:.1%}."]
    if "collectives" in found:
        lines += _work_lines(found)
    return "\n".join(lines) + "\n"


def _versions(compiler: Mapping[str, str]) -> str:
    """Names and versions of what has compiled."""
    return ", ".join(f"{name} {version}" for name, version in compiler.items() if name != "flags")


def _work_lines(found: Mapping[str, Any]) -> list[str]:
    """What the program does, of one that the compiler found room for."""
    lines, wire = _flop_lines(found["flops"]) if found.get("flops") else [], found["collectives"]
    lines += [
        "",
        f"Network: {wire['gib']:.1f} GiB sent per device and {found['unit']}, "
        f"{wire['synchronous_gib']:.1f} of them with nothing to overlap.",
        "",
        *(f"* {kind}: {size:.2f} GiB" for kind, size in wire["by_kind_gib"].items()),
        *(f"* largest: {c['kind']} {c['mib']:.1f} MiB x {c['runs']}" for c in wire["largest"][:3]),
    ]
    if found.get("speed"):
        lines += _speed_lines(found["speed"], found["unit"])
    if "*" in found["topology"]:
        lines += ["", "Between slices the network is slower than the rate that is taken here."]
    squares = ", ".join(found["square_buffers"]) or "none"
    return [
        *lines,
        "",
        f"Arrays of tokens x tokens: {squares}.",
        f"Loops whose length depends on data, counted once: {found['loops_counted_once']}.",
        f"Involuntary rematerialisations reported by the partitioner: {len(found['warnings'])}.",
        *(f"* {warning}" for warning in found["warnings"]),
    ]


def _flop_lines(work: Mapping[str, Any]) -> list[str]:
    """Operations, and the tiles that the attention kernels walk."""
    lines = [
        "",
        "| floating-point operations of one device | |",
        "|---|---|",
        f"| model (useful) | {work['model']:.4g} |",
        f"| chosen recomputation | {work['recomputation']:.4g} |",
        f"| compiled matmuls | {work['compiled_matmuls']:.4g} |",
        f"| attention kernels, tiles of the reference row | {work['compiled_kernels']:.4g} |",
        f"| the same on the device with the most to do | {work['busiest_kernels']:.4g} |",
        f"| compiled / (model + recomputation) | {work['ratio']:.3f} |",
    ]
    for tiles in work["tiles"]:
        empty, skipped = (1 - tiles[k] / tiles["all"] for k in ("needed", "walked"))
        lines += [
            "",
            f"Attention {tiles['queries']} x {tiles['keys']}: {skipped:.1%} of the tiles skipped, "
            f"{empty:.1%} hold nothing visible; {1 - tiles['pairs']:.1%} of the pairs are masked.",
        ]
    return lines


def _speed_lines(speed: Mapping[str, float], unit: str) -> list[str]:
    """Time at the data sheet's rates."""
    mfu, expect = speed.get("mfu_bound"), "No chip multiplies at its peak: expect less."
    if mfu is None:
        expect = (
            "Attention's kernels are not in it, and no chip multiplies at its peak: expect more."
        )
    return [
        "",
        f"At the data sheet's rates: compute {speed['compute_s']:.3g} s, memory "
        f"{speed['memory_s']:.3g} s, network that work overlaps {speed['overlapped_s']:.3g} s, and "
        "synchronous collectives, for which everything waits, "
        f"{speed['synchronous_s']:.3g} s. One {unit} takes at least {speed['bound_s']:.3g} s"
        + (f" (MFU at most {mfu:.1%}). " if mfu is not None else ". ")
        + expect,
    ]


def table(folder: Path) -> str:
    """One line per report in a folder.

    Raises:
      FileNotFoundError: there is none.
    """
    reports = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    if not reports:
        raise FileNotFoundError(f"{folder}: no report; run unireason compile_check first.")
    rows = [_COLUMNS, ("---",) * len(_COLUMNS), *(_row(found) for found in reports)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _row(found: Mapping[str, Any]) -> tuple[str, ...]:
    """The cells of one report."""
    memory, wire = found["memory"], found.get("collectives")
    work, speed = found.get("flops"), found.get("speed")
    capacity, margin = memory.get("capacity_gib"), memory.get("margin")
    tokens = found["rows"] * found["tokens"] / found["devices"]
    return (
        found["program"],
        found["topology"],
        str(found["devices"]),
        found["mesh"],
        f"{found['tokens']:,}",
        f"{memory['peak_gib']:.1f}" + (f" / {capacity:.1f}" if capacity else ""),
        f"{margin:.0%}" if margin is not None else "",
        f"{work['ratio']:.3f}" if work else "",
        f"{wire['gib']:.1f}, {wire['synchronous_gib']:.1f}" if wire else "does not fit",
        f"{wire['gib'] * (1 << 20) / tokens:.0f}" if work else "",
        f"{speed['bound_s']:.3g}" if speed else "",
        f"{speed['mfu_bound']:.0%}" if speed and "mfu_bound" in speed else "",
        _versions(found["compiler"]),
    )
