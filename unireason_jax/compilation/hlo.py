"""What an executable does, read from its optimised HLO text.

XLA's own cost analysis counts the body of a loop once. Here every instruction is weighted by how
often it runs: the trip counts of the loops around it, multiplied.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_BYTES = {"pred": 1, "bf16": 2, "f16": 2, "f32": 4, "f64": 8, "token": 0, "opaque": 0}
_ARRAY = re.compile(r"\b(pred|bf16|f8\w+|[fsuc]\d+)\[([\d,]*)\](?:\{[^}]*?(?:S\((\d+)\))?\})?")
_HEAD = re.compile(r"(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_LINE = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r" ([a-z][a-z0-9\-]*)\((?=[^()]*)")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|called_computations)=\{?%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "collective-permute",
    "all-to-all",
    "ragged-all-to-all",
)
# What a device computes while others send.
_WORK = {"fusion", "dot", "convolution", "custom-call", "while", "call", "conditional"}


class Array(NamedTuple):
    """Dtype, shape and memory: 0 is the device's, others are beside its cores."""

    dtype: str
    shape: tuple[int, ...]
    space: int = 0

    @property
    def bytes(self) -> int:
        """Size without padding."""
        bits = re.search(r"\d+", self.dtype)
        item = _BYTES.get(self.dtype, int(bits[0]) // 8 if bits else 0)
        return math.prod(self.shape) * max(item, 0)


class Instruction(NamedTuple):
    """One line of a computation: result arrays, opcode, operand names and the rest of the line."""

    name: str
    arrays: tuple[Array, ...]
    opcode: str
    operands: tuple[str, ...]
    text: str


class Collective(NamedTuple):
    """One communication: kind, bytes a device sends in one run, runs, whether work overlaps it."""

    kind: str
    wire_bytes: float
    runs: int
    overlapped: bool


@dataclasses.dataclass
class Program:
    """A parsed module.

    Attributes:
      computations: instructions by computation.
      entry: the computation that runs first.
      unknown_loops: names of loops whose trip count depends on data; counted once.
    """

    computations: dict[str, dict[str, Instruction]]
    entry: str
    unknown_loops: list[str] = dataclasses.field(default_factory=list)

    @functools.cached_property
    def runs(self) -> dict[str, int]:
        """How often every reachable computation runs."""
        found: dict[str, int] = {}
        for name, times in self._walk(self.entry, 1):
            found[name] = found.get(name, 0) + times
        return found

    def _walk(self, name: str, times: int) -> Iterator[tuple[str, int]]:
        """(computation, runs) of a computation and all it calls."""
        yield name, times
        for line in self.computations[name].values():
            more = times
            if line.opcode == "while":
                count = self.trip_count(line)
                if count is None and line.name not in self.unknown_loops:
                    self.unknown_loops.append(line.name)
                more *= count or 1
            for called in called_by(line.text):
                if called in self.computations:
                    yield from self._walk(called, more)

    def trip_count(self, loop: Instruction) -> int | None:
        """Times a loop runs: XLA's note, or from what its counter is compared with and grows by.

        Counters start at 0. None: the bound is not a constant.
        """
        noted = re.search(r'known_trip_count"?:\{"n":"(\d+)"', loop.text)
        if noted:
            return int(noted[1])
        condition = self.computations[re.search(r"condition=%?([\w.\-]+)", loop.text)[1]]
        bounds = [n for line in condition.values() if (n := _constant(line)) is not None]
        if len(bounds) != 1:
            return None
        counters = [
            int(re.search(r"index=(\d+)", line.text)[1])
            for line in condition.values()
            if line.opcode == "get-tuple-element"
        ]
        body = self.computations[re.search(r"body=%?([\w.\-]+)", loop.text)[1]]
        return -(-bounds[0] // self._step(body, counters[0] if counters else 0))

    def _step(self, body: dict[str, Instruction], counter: int) -> int:
        """By how much the counter grows in the body of a loop; 1 where it cannot be told."""
        root = list(body.values())[-1]
        grown = body.get(root.operands[counter]) if counter < len(root.operands) else None
        inside = body
        if grown is not None and grown.opcode == "fusion":
            inside = self.computations[called_by(grown.text)[0]]
            grown = list(inside.values())[-1]
        if grown is None or grown.opcode != "add":
            return 1
        steps = [_constant(inside[name]) for name in grown.operands if name in inside]
        return next((step for step in steps if step), 1)

    def lines(self) -> Iterator[tuple[Instruction, dict[str, Instruction], int]]:
        """Every instruction, the computation it is in, and how often it runs."""
        for name, times in self.runs.items():
            for line in self.computations[name].values():
                yield line, self.computations[name], times

    def matmul_flops(self) -> float:
        """Floating-point operations of all dots and convolutions on one device."""
        return sum(times * _matmul(line, inside) for line, inside, times in self.lines())

    def kernels(self) -> list[tuple[str, Instruction, dict[str, Instruction], int]]:
        """(name, call, its computation, runs) of the Pallas kernels that are called."""
        return [
            (re.match(r"(?:\w*?_)?(output_kernel|query_kernel|key_kernel)", line.name)[1], *rest)
            for line, *rest in ((item[0], *item) for item in self.lines())
            if 'custom_call_target="tpu_custom_call"' in line.text and "_kernel" in line.name
        ]

    def collectives(self) -> list[Collective]:
        """All communication of one device, longest total first.

        One that is split over fusions stands in several computations, under one channel: it counts
        once, as overlapped.
        """
        found: dict[tuple, int] = {}
        split, seen = self._split_channels(), set()
        for name, times in self.runs.items():
            fused = name.startswith("all-reduce-scatter")
            for line in self.computations[name].values():
                kind = line.opcode.removesuffix("-start")
                if kind not in _COLLECTIVES:
                    continue
                channel = _channel(line)
                if channel in seen:
                    continue
                seen |= {channel} & split
                overlapped = channel in split or "async" in name
                overlapped |= self._overlapped(line, self.computations[name])
                started = line.opcode.endswith("-start") and kind != "all-reduce"
                size = (max if started else sum)(a.bytes for a in line.arrays)
                kind = "reduce-scatter" if fused else kind
                given = [self.computations[name].get(o) for o in line.operands]
                if kind == "reduce-scatter":
                    size = max(sum(a.bytes for a in i.arrays) for i in given if i)
                group = 0 if kind == "collective-permute" else group_size(line.text)
                key = kind, wire_bytes(kind, size, group), overlapped
                found[key] = found.get(key, 0) + times
        parts = [Collective(kind, size, n, over) for (kind, size, over), n in found.items()]
        return sorted(parts, key=lambda c: -c.wire_bytes * c.runs)

    def _split_channels(self) -> set[str]:
        """Channels of communication that goes on inside of fusions with other work."""
        return {
            channel
            for name in self.runs
            if "async" in name
            for line in self.computations[name].values()
            if (channel := _channel(line))
        }

    @staticmethod
    def _overlapped(line: Instruction, inside: dict[str, Instruction]) -> bool:
        """Whether work is scheduled between the start of a communication and its end.

        One that ends in another computation (the next round of a loop) has all of that between.
        """
        if not line.opcode.endswith("-start"):
            return False
        order = list(inside.values())
        for later in order[order.index(line) + 1 :]:
            if later.opcode in _WORK:
                return True
            if later.opcode.endswith("-done") and line.name in later.operands:
                return False
        return True

    def square_buffers(self, tokens: set[int]) -> list[str]:
        """Arrays with two dimensions among the given numbers of tokens: attention matrices."""
        return sorted(
            {
                f"{a.dtype}{list(a.shape)}"
                for line, _, _ in self.lines()
                for a in line.arrays
                if sum(size in tokens for size in a.shape) > 1
            }
        )


def parse(text: str) -> Program:
    """A module from its text (`Compiled.as_text()`)."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if current is None or not line.startswith(" "):
            head = _HEAD.match(line)
            if head:
                current = computations.setdefault(head[1], {})
                entry = head[1] if line.startswith("ENTRY") else entry
            continue
        match = _LINE.match(line)
        if match:
            made = _instruction(match[1], match[2])
            current[made.name] = made
    return Program(computations, entry)


def _instruction(name: str, rest: str) -> Instruction:
    """One instruction from what stands right of its name."""
    opcode = _OPCODE.search(f" {rest}" if rest[0] != "(" else rest)
    start = rest.index(f"{opcode[1]}(") if opcode else len(rest)
    arrays = tuple(
        Array(dtype, tuple(int(n) for n in sizes.split(",") if n), int(space or 0))
        for dtype, sizes, space in _ARRAY.findall(rest[:start])
    )
    inside = rest[start:].split("), ")[0]
    return Instruction(
        name,
        arrays,
        opcode[1] if opcode else "",
        tuple(re.findall(r"%([\w.\-]+)", inside)),
        rest[start:],
    )


def _constant(line: Instruction) -> int | None:
    """The value of an integer constant, None for anything else."""
    if line.opcode != "constant" or not line.arrays[0].dtype.startswith(("s", "u")):
        return None
    value = re.match(r"constant\((-?\d+)\)", line.text)
    return int(value[1]) if value else None


def _channel(line: Instruction) -> str | None:
    """The channel of a communication, None for anything else."""
    found = re.search(r"channel_id=(\d+)", line.text)
    return found[1] if found else None


def called_by(text: str) -> list[str]:
    """Names of the computations an instruction calls."""
    names = _CALLED.findall(text)
    for branches in _BRANCHES.findall(text):
        names += re.findall(r"[\w.\-]+", branches)
    return names


def group_size(text: str) -> int:
    """Devices in one group of a collective.

    Raises:
      ValueError: the text does not say so in a form that is known.
    """
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", text):
        return len(listed[1].split(","))
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]", text):
        return int(iota[1])
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", text):
        sizes = dict(re.findall(r"'([\w.]+)'=(\d+)", named[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'([\w.]+)'", named[2]))
    raise ValueError(f"a collective whose groups are not understood: {text}")


def wire_bytes(kind: str, size: int, group: int) -> float:
    """Bytes a device sends, by ring algorithms.

    Args:
      kind: the collective.
      size: bytes of the whole array: gathered, or before it is scattered.
      group: devices that take part; of no account where each sends to one other.
    """
    if kind == "collective-permute":
        return float(size)
    return size * (group - 1) / group * (2 if kind == "all-reduce" else 1)


def _matmul(line: Instruction, inside: dict[str, Instruction]) -> float:
    """Operations of one dot or convolution, 0 for anything else."""
    if line.opcode == "dot":
        left = inside[line.operands[0]].arrays[0].shape
        dims = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", line.text)[1]
        contracted = math.prod(left[int(d)] for d in dims.split(",") if d)
        return 2.0 * math.prod(line.arrays[0].shape) * contracted
    if line.opcode != "convolution":
        return 0.0
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", line.text)
    left, right = (inside[o].arrays[0].shape for o in line.operands[:2])
    out = line.arrays[0].shape
    flops = 2.0 * out[labels[3].index("b")] * out[labels[3].index("f")]
    flops *= right[labels[2].index("i")]
    found = re.search(r"window=\{(.*?)\}", line.text)
    window = dict(re.findall(r"(\w+)=([\dx_\-]+)", found[1])) if found else {}
    axes = sum(c.isdigit() for c in labels[1])
    for axis in range(axes):
        place = str(axis)
        flops *= _taps(
            left[labels[1].index(place)],
            out[labels[3].index(place)],
            right[labels[2].index(place)],
            stride=int(_at(window, "stride", axis, "1")),
            low=int(_at(window, "pad", axis, "0_0").split("_")[0]),
            spread=int(_at(window, "lhs_dilate", axis, "1")),
            reach=int(_at(window, "rhs_dilate", axis, "1")),
        )
    return flops


def _at(window: dict[str, str], field: str, axis: int, default: str) -> str:
    """One axis of a field of a window."""
    return window[field].split("x")[axis] if field in window else default


@functools.cache
def _taps(
    size: int, outputs: int, taps: int, *, stride: int, low: int, spread: int, reach: int
) -> int:
    """Pairs (output, kernel element) of one axis that meet an input and not padding or a hole."""
    last, count = (size - 1) * spread, 0
    for out in range(outputs):
        for tap in range(taps):
            place = out * stride - low + tap * reach
            count += 0 <= place <= last and place % spread == 0
    return count
