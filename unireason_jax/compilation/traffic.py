"""How many bytes a program moves between a device and its memory.

A loop that fills a stack of activations names the whole stack in every round, but writes one layer
of it; a fusion that is given the stack may read one layer. What lies in memory beside the cores
(`S(1)` and the like in a layout) is not counted at all.
"""

from collections.abc import Mapping

from unireason_jax.compilation.hlo import Instruction, Program, called_by

_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call"}
_FREE |= {"conditional", "after-all", "partition-id", "replica-id"}
_PARTS = {"dynamic-slice", "slice", "gather"}  # read as much of their first operand as they give
_Computation = Mapping[str, Instruction]


def memory_bytes(program: Program) -> float:
    """Bytes that instructions read and write outside of fusions, weighted by how often they run.

    A kernel counts as reading each operand once; what it reads again depends on data.
    """
    wholes = (line for line, _, _ in program.lines() if line.opcode in ("fusion", "async-start"))
    inner = {name for line in wholes for name in called_by(line.text)}
    return sum(
        times * _moved(program, line, program.computations[name])
        for name, times in program.runs.items()
        if name not in inner
        for line in program.computations[name].values()
        if line.opcode not in _FREE and not line.opcode.endswith("-done")
    )


def _moved(program: Program, line: Instruction, inside: _Computation) -> float:
    """Bytes that one instruction reads and writes."""
    given = [inside[name] for name in line.operands if name in inside]
    if line.opcode.endswith("-start"):
        return _started(line, given)
    if line.opcode == "fusion":
        body = program.computations[called_by(line.text)[0]]
        parameters = {
            int(one.text.removeprefix("parameter(").partition(")")[0]): one
            for one in body.values()
            if one.opcode == "parameter"
        }
        read = sum(
            min(_size(inside[name]), _read(program, body, parameters[n].name))
            for n, name in enumerate(line.operands)
            if name in inside
        )
        return read + _written(program, line, body)
    read = sum(map(_size, given))
    if line.opcode in _PARTS:
        read = min(read, _whole(line))
    if line.opcode == "dynamic-update-slice":
        return 2 * _size(given[1])
    return read + _size(line)


def _started(line: Instruction, given: list[Instruction]) -> float:
    """Of a copy or communication that work overlaps: its results name its operands as well."""
    results = line.arrays[:1] if line.opcode == "copy-start" else line.arrays[len(given) :]
    results = [array for array in results if array.shape] or list(line.arrays[:1])
    moved = sum(array.bytes for array in results)
    sources = sum(min(moved, _size(one)) for one in given)
    return min(sources, moved) + sum(array.bytes for array in results if not array.space)


def _read(program: Program, body: _Computation, name: str) -> float:
    """Bytes of one value of a fusion that its instructions read, at most all of it."""
    total = 0.0
    for line in body.values():
        if name not in line.operands:
            continue
        if line.opcode == "bitcast":
            total += _read(program, body, line.name)
        elif line.opcode in _PARTS and line.operands[0] == name:
            total += _whole(line)
        elif line.opcode == "dynamic-update-slice" and line.operands[0] == name:
            continue  # what is not replaced stays where it is
        elif line.opcode == "fusion":
            nested = program.computations[called_by(line.text)[0]]
            order = f"parameter({line.operands.index(name)})"
            total += sum(
                _read(program, nested, one.name)
                for one in nested.values()
                if one.text.startswith(order)
            )
        else:
            return _whole(body[name])
    return min(total, _whole(body[name]))


def _written(program: Program, line: Instruction, body: _Computation) -> float:
    """Bytes of a fusion's results that it writes."""
    root = list(body.values())[-1]
    parts = [body[name] for name in root.operands] if root.opcode == "tuple" else [root]
    if len(parts) != len(line.arrays):
        return _size(line)
    return sum(
        0 if array.space else _update(program, part, body)
        for array, part in zip(line.arrays, parts)
    )


def _update(program: Program, part: Instruction, body: _Computation) -> float:
    """Bytes of one result that are new."""
    while part.opcode == "bitcast" and part.operands[0] in body:
        part = body[part.operands[0]]
    if part.opcode == "dynamic-update-slice":
        return _whole(body[part.operands[1]])
    if part.opcode == "fusion":
        nested = program.computations[called_by(part.text)[0]]
        root = list(nested.values())[-1]
        if root.opcode != "tuple":
            return _update(program, root, nested)
    return _whole(part)


def _whole(line: Instruction) -> float:
    """Bytes of an instruction's results, wherever they lie."""
    return sum(array.bytes for array in line.arrays)


def _size(line: Instruction) -> float:
    """Bytes of an instruction's results that lie in the device's memory."""
    return sum(array.bytes for array in line.arrays if not array.space)
