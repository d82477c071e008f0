"""Who may import whom, how long a file may be, and what an import may do: read from the syntax tree.

A module's layer is the first name under `pofx`: `pofx.families.flow` is of `families`. An import counts wherever it
stands (in a function, under TYPE_CHECKING, by `import_module("pofx...")`), for it is knowledge all the same.
To allow an import, add a name to MAY, and ask first whether the arrow is one of the design's.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"
ROOT = "pofx"  # the layer of pofx/__init__.py: the public names, which only the faces and `check` may lean on

FLOOR = {"randomness", "files"}
DATA = FLOOR | {"kinds", "data"}
MODEL = DATA | {"records", "model"}  # the hinge and its records
MODELS = MODEL | {"wrappers", "families", "baselines"}
LIBRARY = MODELS | {"engines", "nn", "metrics", "drawing", "training", "tasks", "reporting", "check", ROOT}

# layer: the layers that it may import (itself always, but see SIBLINGS)
MAY = {
    "randomness": set(),
    "files": set(),
    "engines": FLOOR,
    "nn": FLOOR,
    "metrics": FLOOR,
    "kinds": FLOOR,
    "data": FLOOR | {"kinds"},
    "drawing": DATA,
    "records": DATA,
    "model": DATA | {"records"},
    "wrappers": MODEL | {"engines"},
    "baselines": MODEL,
    "families": MODEL | {"wrappers", "engines", "nn"},
    "training": MODELS,
    "tasks": MODEL | {"wrappers", "engines", "metrics", "drawing"},
    "reporting": MODELS | {"metrics", "tasks", "training", "drawing"},
    "check": LIBRARY,
    "imputer": LIBRARY,
    ROOT: LIBRARY | {"imputer"},
    "serve": LIBRARY,
    "studio": LIBRARY,
    "cli_io": LIBRARY,
    "cli_options": set(),
    "cli_ask": LIBRARY | {"cli_io", "cli_rows", "cli_options"},
    "cli_act": LIBRARY | {"cli_io", "cli_options"},
    "cli_rows": LIBRARY | {"cli_io"},
    "cli_look": LIBRARY | {"cli_io", "cli_rows", "cli_options"},
    "cli": LIBRARY | {"cli_io", "cli_options", "cli_ask", "cli_act", "cli_look", "serve", "studio"},
    "__main__": {"cli"},
}
ALSO = {  # modules that may import more than their layer
    "tasks.compare": {"training"},  # which knows the families by name
    "tasks.measure": {"training", "baselines"},  # the half of compare that fits
    "reporting.sections": {ROOT},  # the version, which a report states
    "families.latent": {"families"},  # the look-up of two families by name, which it puts together
}
SIBLINGS = {"families"}  # layers whose files know nothing of each other; their __init__ may list them

LONGEST_FUNCTION = 60
LONGEST_FILE = 400
LONGEST = {"model.py": 250}  # the file to read first
NEVER = {  # calls that change global state or let a file run code
    *("torch.manual_seed", "torch.seed", "torch.set_default_dtype", "torch.set_default_device"),
    *("np.random.seed", "numpy.random.seed", "random.seed", "np.seterr", "numpy.seterr"),
    *("torch.load", "pickle.load", "pickle.loads", "joblib.load", "eval", "exec"),
}


def modules(src: Path) -> dict[str, Path]:
    """Dotted name under pofx ("" for the package itself) -> file."""
    package = src / ROOT
    return {
        ".".join(p.relative_to(package).with_suffix("").parts).removesuffix("__init__").removesuffix("."): p
        for p in sorted(package.rglob("*.py"))
    }


def imported(name: str, path: Path, known: set[str]) -> Iterator[tuple[int, str]]:
    """(line, dotted name under pofx) of every import of pofx in one file."""
    package = [ROOT, *(name.split(".") if name else [])]
    package = package if path.name == "__init__.py" else package[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        for target in targets(node, package):
            if target.split(".")[0] == ROOT:
                yield node.lineno, nearest(target.partition(".")[2], known)


def targets(node: ast.AST, package: list[str]) -> list[str]:
    """The absolute names that one node imports; `from a import b` gives a.b."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        start = package[: len(package) - node.level + 1] if node.level else []
        base = ".".join([*start, *([node.module] if node.module else [])])
        return [f"{base}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in {"import_module", "__import__"}:
        return [a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    return []


def nearest(target: str, known: set[str]) -> str:
    """The module that a name stands in: families.flow.Flow -> families.flow."""
    parts = target.split(".") if target else []
    while parts and ".".join(parts) not in known:
        parts.pop()
    return ".".join(parts)


def layer(name: str) -> str:
    return name.split(".")[0] or ROOT


def allowed(name: str, target: str) -> bool:
    here, there = layer(name), layer(target)
    if here != there:
        return there in MAY.get(here, set()) | ALSO.get(name, set())
    if here not in SIBLINGS or name == here:
        return True
    return name.split(".")[:2] == target.split(".")[:2] or target in ALSO.get(name, set())


def forbidden_imports(src: Path) -> list[str]:
    files = modules(src)
    known = set(files) | {".".join(n.split(".")[:i]) for n in files for i in range(1, n.count(".") + 1)}
    return [
        f"{path.relative_to(src)}:{line}: {name or ROOT} may not import {target or ROOT}"
        for name, path in files.items()
        for line, target in imported(name, path, known)
        if not allowed(name, target)
    ]


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def test_nobody_imports_upward_or_sideways() -> None:
    assert forbidden_imports(SRC) == []


def test_every_module_has_a_layer() -> None:
    assert {layer(name) for name in modules(SRC)} <= set(MAY)


def test_the_layers_are_an_order() -> None:
    """No layer reaches itself through MAY; the root, which shows all names, is left out."""
    below = {name: may - {ROOT, name} for name, may in MAY.items() if name != ROOT}
    while below:
        free = {name for name, may in below.items() if not may & set(below)}
        assert free, f"a circle among {sorted(below)}"
        below = {name: may for name, may in below.items() if name not in free}


@pytest.mark.parametrize(
    ("file", "line", "complaint"),
    [
        ("families/vae.py", "from pofx.families.flow import Flow", "families.flow"),
        ("families/vae.py", "from .flow import Flow", "families.flow"),
        ("families/vae.py", "from . import Flow", "families"),
        ("families/vae.py", "from pofx.tasks import density", "tasks.density"),
        ("families/vae.py", "def f():\n    from ..tasks.density import density", "tasks.density"),
        ("families/vae.py", "importlib.import_module('pofx.training')", "training"),
        ("tasks/density.py", "from pofx.families.flow import Flow", "families.flow"),
        ("tasks/density.py", "from pofx.training.loop import fit", "training.loop"),
        ("tasks/density.py", "from pofx import fit", "pofx"),
        ("engines/ode.py", "import pofx.model", "model"),
        ("metrics/fid.py", "from pofx.engines import ode", "engines.ode"),
        ("model.py", "from pofx import cli", "cli"),
        ("families/__init__.py", "from .flow import Flow", None),
        ("families/vae.py", "from ..nn.mlp import MLP", None),
        ("families/vae.py", "from pofx.randomness import Rng", None),
        ("tasks/measure.py", "from pofx.training.loop import fit", None),
        ("tasks/density.py", "import torch, pofxtra", None),
    ],
)
def test_the_rule_sees(tmp_path: Path, file: str, line: str, complaint: str | None) -> None:
    names = ["__init__", "cli", "model", "randomness", "families/__init__", "families/flow", "families/vae", "nn/mlp"]
    names += ["engines/ode", "metrics/fid", "tasks/density", "tasks/compare", "training/__init__", "training/loop"]
    for name in names:
        path = tmp_path / ROOT / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / ROOT / file).write_text(line)
    found = [text.rsplit(" ", 1)[1] for text in forbidden_imports(tmp_path)]
    assert found == ([complaint] if complaint else [])


def test_no_file_or_function_is_too_long() -> None:
    found = []
    for path in modules(SRC).values():
        text = path.read_text(encoding="utf-8")
        lines, limit = text.count("\n"), LONGEST.get(str(path.relative_to(SRC / ROOT)), LONGEST_FILE)
        if lines > limit:
            found.append(f"{path.relative_to(SRC)}: {lines} lines, at most {limit}")
        for f in functions(ast.parse(text)):
            length = f.end_lineno - f.lineno + 1
            if length > LONGEST_FUNCTION:
                found.append(f"{path.relative_to(SRC)}:{f.lineno}: {f.name} has {length} lines")
    assert found == []


def test_no_call_changes_global_state_or_runs_a_file() -> None:
    found = [
        f"{path.relative_to(SRC)}:{node.lineno}: {ast.unparse(node.func)}"
        for path in modules(SRC).values()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in NEVER
    ]
    assert found == []


def python(code: str) -> str:
    """Standard output of a fresh interpreter."""
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(SRC)!r})\n{code}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_does_not_import_torch() -> None:
    out = python(
        "from pofx.cli import main\n"
        "sys.argv = ['pofx', '--help']\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print('heavy:', sorted({'torch', 'pandas', 'sklearn', 'matplotlib'} & set(sys.modules)))\n"
    )
    assert "compare" in out  # the help itself was printed
    assert out.strip().endswith("heavy: []")


STATE = """
import logging, os, random, warnings
import numpy, scipy.stats, sklearn, pandas, pyarrow, PIL.Image, matplotlib, lightning_fabric, torch, typer
import rich.style  # draws from random as it is imported

def state():
    return {
        "torch dtype": torch.get_default_dtype(),
        "torch device": torch.get_default_device(),
        "torch random": torch.get_rng_state().tolist(),
        "torch threads": torch.get_num_threads(),
        "torch gradients": torch.is_grad_enabled(),
        "torch deterministic": torch.are_deterministic_algorithms_enabled(),
        "torch matmul": torch.get_float32_matmul_precision(),
        "numpy random": repr(numpy.random.get_state()),
        "numpy errors": numpy.geterr(),
        "python random": random.getstate(),
        "warnings": list(map(repr, warnings.filters)),
        "logging": (logging.root.level, list(logging.root.handlers)),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "path": list(sys.path),
        "matplotlib": repr(dict(matplotlib.rcParams)),
    }
"""


def test_importing_changes_nothing_global() -> None:
    faces = {"cli", "serve", "studio", "__main__"}
    names = [f"{ROOT}.{n}".rstrip(".") for n in modules(SRC) if layer(n) not in faces]
    out = python(
        f"{STATE}\nimport importlib\nbefore = state()\nfor name in {names}: importlib.import_module(name)\n"
        "after = state()\nprint([key for key in before if before[key] != after[key]])"
    )
    assert out.strip() == "[]"
