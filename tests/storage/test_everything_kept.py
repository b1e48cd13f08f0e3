"""What users name is written whole and may be in a bucket: nothing goes around `storage`."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "unireason_jax"
ELSEWHERE = {
    "speed",  # inputs of a measurement, in a temporary folder
    "storage",
}
WRITING = {"write_text", "write_bytes", "rename", "touch", "tofile"}


def _mode(call: ast.Call) -> str:
    """The mode that a call of `open` or `path.open` is given."""
    place = 0 if isinstance(call.func, ast.Attribute) else 1
    named = [k.value for k in call.keywords if k.arg == "mode"]
    given = [*call.args[place : place + 1], *named]
    return given[0].value if given and isinstance(given[0], ast.Constant) else "r"


def _in_place(tree: ast.AST) -> list[str]:
    """The calls that write a file under its own name, outside a `with atomic.replacing`."""
    found = []
    inside = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.With)
        and any("atomic.replacing" in ast.unparse(item.context_expr) for item in block.items)
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or id(node) in inside:
            continue
        words = ast.unparse(node.func)
        name = words.rpartition(".")[2]
        owner = words.rpartition(".")[0]
        writes = name in WRITING and owner not in ("atomic", "sampler", "writing")
        opens = name == "open" and isinstance(_mode(node), str) and set(_mode(node)) & set("wax+")
        numpy = words in ("np.save", "np.savez", "os.replace", "shutil.copyfile", "shutil.move")
        if writes or opens or numpy:
            found.append(f"{node.lineno}: {ast.unparse(node)[:60]}")
    return found


def test_the_check_sees_what_writes_in_place():
    code = "p.write_text('x')\nopen(p, 'w')\np.open('ab')\nnp.save(p, a)\np.open('rb')\n"
    assert len(_in_place(ast.parse(code))) == 4
    assert not _in_place(ast.parse("with atomic.replacing(p) as part:\n    np.save(part, a)"))


def test_nothing_is_written_in_place():
    found = {
        str(path.relative_to(PACKAGE)): calls
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.relative_to(PACKAGE).parts[0] not in ELSEWHERE
        and (calls := _in_place(ast.parse(path.read_text())))
    }
    known = {
        "inference/multihost.py": 1,  # in memory
        "new.py": 3,  # a new folder
        "reinforcement/rows.py": 1,  # in memory
        "training/checkpoint_fallback.py": 1,  # a damaged step is moved aside
    }
    assert {name: len(calls) for name, calls in found.items()} == known, found


OF_THIS_MACHINE = {
    "bench.py",  # what is measured is local
    "compile_check.py",  # reports
    "compilation/assignment.py",  # what the compiler writes, in a temporary folder
    "inference/integration.py",  # another thing of that name
    "inference/trace.py",  # a name, not a place
    "new.py",  # a project on this machine
    "parity.py",  # recordings
    "pictures/fonts.py",
    "run/compile_cache.py",
    "run/configuration.py",  # config files are code
    "run/hardware.py",
    "serve.py",  # a key
    "server/app.py",
    "synthesis/assembly.py",  # a file that `replacing` gives
    "synthesis/recipe.py",  # recipes are code
    "training/metrics.py",  # /proc
}


def _local_only(tree: ast.AST) -> list[str]:
    """The calls that know local paths only."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            words = ast.unparse(node.func)
            typed = [k for k in node.keywords if k.arg == "type" and ast.unparse(k.value) == "Path"]
            copies = words.startswith("shutil.") and "obj" not in words
            if typed or copies or words in ("Path", "open"):
                found.append(f"{node.lineno}: {ast.unparse(node)[:60]}")
    return found


def test_every_path_of_a_user_may_be_in_a_bucket():
    found = {
        str(path.relative_to(PACKAGE)): calls
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.relative_to(PACKAGE).parts[0] not in {"speed", "storage", "proof"}
        and (calls := _local_only(ast.parse(path.read_text())))
    }
    assert found.keys() <= OF_THIS_MACHINE, found
