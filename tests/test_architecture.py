"""The rules of the house, read from the source: who imports whom, the door of each library, sizes.

``make picture`` (``python -m tests.test_architecture``) prints the rooms and their imports.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# The rooms of engine/, lowest floor first. A room imports from lower floors only: those of one floor do not
# know each other, a job composes them.
ROOMS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("dicom", "store"),
    ("sources", "imaging", "evaluation"),
    ("datasets", "ingest"),
    ("models",),
    ("distillation",),
    ("training",),
    ("tasks",),
    ("deploy", "delivery", "report"),
    ("serving",),
)
MAX_ROOMS = 16

# Library -> the modules of engine/ that may import it. A longer name goes before its prefix.
DOORS: dict[str, tuple[str, ...]] = {
    "cryptography": ("deploy.signature",),
    "cv2": ("imaging.*", "datasets.*", "tasks.*"),
    "fastapi": ("serving.*",),
    "highdicom": ("delivery.*",),
    "httpx": ("sources.*", "delivery.*"),
    "imagecodecs": ("dicom.*",),
    "jinja2": ("report.*",),
    "matplotlib": ("report.*",),
    "onnx": ("deploy.export",),
    "onnxruntime": ("deploy.*",),
    "onnxscript": ("deploy.export",),
    "openvino": ("deploy.*",),
    "polars": ("report.*",),
    "pydicom": ("dicom.*", "delivery.*"),
    "pynetdicom": ("delivery.*",),
    "ray": ("*.on_ray", "*_on_ray"),
    "tensorrt": ("deploy.*",),
    "timm": ("models.*",),
    "tritonclient": ("deploy.*",),
    "xlsxwriter": ("delivery.*",),
}

# A job joins parts of the engine; of the libraries with a door it may only speak to Ray's core.
OPEN_TO_JOBS = frozenset({"ray"})
STARTS_RAY = "jobs.cluster_session"

WITHOUT_FRAMEWORK = (
    "engine.tasks", "jobs.score", "jobs.verify", "jobs.report", "jobs.deliver", "jobs.compare",
)  # fmt: skip
"""Modules that load neither torch nor Ray when they are imported: the answer of a task is all they need."""

KNOW_MONTHS = ("tasks", "datasets.phantom", "dicom")
"""Where months may stand: the tasks that answer in them, their phantoms, and the ages of DICOM headers."""
AN_AGE = re.compile(r"\b_?(age|oldest|least|most)_months\w*|ages? in months")

UNPICKLING_MODULES = frozenset({"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"})
READS_A_CHECKPOINT = "benchmarks.imagenet_weights"
"""The one script that turns a published checkpoint into safetensors, its digest pinned, weights only."""
UNSAFE_CALLS = frozenset({"eval", "exec", "torch.load", "yaml.load", "yaml.unsafe_load"})

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 80

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Module:
    """One source file; ``name`` is its dotted import name."""

    name: str
    path: Path
    text: str
    tree: ast.Module

    @property
    def room(self) -> str:
        """Its entry in ROOMS: the name right below ``engine``."""
        return self.name.split(".")[1]

    def at(self, node: ast.stmt | ast.expr) -> str:
        return f"{self.path.relative_to(ROOT)}:{node.lineno}"


@cache
def modules(*folders: str) -> tuple[Module, ...]:
    found = []
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            text = path.read_text(encoding="utf-8")
            found.append(Module(name, path, text, ast.parse(text)))
    return tuple(found)


def engine_modules() -> list[Module]:
    return [module for module in modules("engine") if module.name != "engine"]


def imports(module: Module) -> Iterator[tuple[str, ast.stmt | ast.expr]]:
    """Dotted names imported anywhere in the module, in functions too; ``from a import b`` gives ``a.b``."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module.at(node)}: write absolute imports"
            yield from ((f"{node.module}.{alias.name}", node) for alias in node.names)
        elif isinstance(node, ast.Call) and dotted(node.func).endswith("import_module"):
            yield from ((arg.value, node) for arg in node.args[:1] if _is_text(arg))


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def is_within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def dotted(node: ast.expr) -> str:
    """``a.b.c`` of a name or attribute chain; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return f"{base}.{node.attr}" if base else ""
    return ""


def report(title: str, findings: list[str]) -> None:
    assert not findings, "\n  ".join([title, *findings])


def test_every_module_lies_in_a_room() -> None:
    present = {path.stem for path in (ROOT / "engine").iterdir() if path.suffix in {"", ".py"}}
    present -= {"__init__", "__pycache__"}
    placed = [room for floor in ROOMS for room in floor]
    report("Add to ROOMS, on the floor right above all that it imports:", sorted(present - set(placed)))
    report("Take out of ROOMS, no such room in engine/:", sorted(set(placed) - present))
    report("Twice in ROOMS:", sorted({room for room in placed if placed.count(room) > 1}))
    assert len(placed) <= MAX_ROOMS, "another room: is there none that it fits into?"


def doors_between_rooms() -> Iterator[tuple[str, str, str]]:
    """Each import of another room: who imports, whom, and the line."""
    for module in engine_modules():
        for name, node in imports(module):
            parts = name.split(".")
            if parts[0] == "engine" and len(parts) > 1 and parts[1] not in (module.room, "__version__"):
                yield module.room, parts[1], module.at(node)


def test_a_room_imports_from_lower_floors_only() -> None:
    floor = {room: number for number, rooms in enumerate(ROOMS) for room in rooms}
    findings = [
        f"{line}: engine.{room} imports engine.{other}"
        for room, other, line in doors_between_rooms()
        if floor.get(other, -1) >= floor.get(room, len(ROOMS))
    ]
    report("Imports against the direction of ROOMS (move what is shared into a lower room):", findings)


def picture() -> str:
    """The rooms, highest floor first: lines, and the rooms that each imports, ``!`` before one not lower."""
    floor = {room: number for number, rooms in enumerate(ROOMS) for room in rooms}
    arrows = {(room, other) for room, other, _ in doors_between_rooms()}
    lines = Counter[str]()
    for module in engine_modules():
        lines[module.room] += module.text.count("\n")
    drawn = []
    for rooms in reversed(ROOMS):
        for room in rooms:
            known = sorted((other for own, other in arrows if own == room), key=lambda other: -floor[other])
            marked = [f"{'!' if floor[other] >= floor[room] else ''}{other}" for other in known]
            drawn.append(f"{room:>12} {lines[room]:5d}  {'-> ' if marked else ''}{', '.join(marked)}")
        drawn.append("")
    up = sum(floor[other] >= floor[room] for room, other in arrows)
    total = f"{len(floor)} rooms, {sum(lines.values())} lines, {len(arrows)} arrows, {up} not downwards"
    return "\n".join([*drawn, total])


def test_packages_import_in_one_direction() -> None:
    forbidden = {
        "engine": ("jobs", "cluster", "tests", "benchmarks"),
        "jobs": ("cluster", "tests", "benchmarks"),
        "cluster": ("engine", "jobs", "tests", "benchmarks"),
    }
    findings = [
        f"{module.at(node)}: {package} imports {name}"
        for package, others in forbidden.items()
        for module in modules(package)
        for name, node in imports(module)
        if any(is_within(name, other) for other in others)
    ]
    report("engine <- jobs; cluster names code by string; nothing imports tests or benchmarks:", findings)


def test_each_library_has_one_door() -> None:
    findings = []
    for module in (*engine_modules(), *modules("jobs")):
        for name, node in imports(module):
            library = next((door for door in DOORS if is_within(name, door)), None)
            if library is None or _may_pass(module, library):
                continue
            doors = ", ".join(f"engine.{door}" for door in DOORS[library])
            findings.append(f"{module.at(node)}: {library} is imported in {doors} only")
    report("A library came in by another door (call the module that owns it):", findings)


def _may_pass(module: Module, library: str) -> bool:
    if is_within(module.name, "jobs"):
        return library in OPEN_TO_JOBS
    name = module.name.removeprefix("engine.")
    return any(fnmatch(name, door) for door in DOORS[library])


@pytest.mark.parametrize("module", WITHOUT_FRAMEWORK)
def test_what_trains_nothing_loads_no_framework(module: str) -> None:
    code = f"import sys, {module}; print(*{{'ray', 'torch', 'timm'}} & set(sys.modules), 'and no other')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "and no other", done.stderr


def test_only_the_tasks_count_in_months() -> None:
    """Of the other rooms one knows the unit of an answer; a header's age is data like any other column."""
    findings = []
    for module in engine_modules():
        if not any(is_within(module.name, f"engine.{room}") for room in KNOW_MONTHS):
            findings += [f"{module.at(node)}: {word}" for word, node in _words(module) if "months" in word]
    for template in sorted((ROOT / "engine" / "report").glob("*.j2")):
        for number, line in enumerate(template.read_text(encoding="utf-8").splitlines(), 1):
            if "months" in AN_AGE.sub("", line):
                findings.append(f"{template.relative_to(ROOT)}:{number}: {line.strip()}")
    report("The unit is the Answer's to say (Column.unit, Figure.unit):", findings)


def _words(module: Module) -> Iterator[tuple[str, ast.stmt | ast.expr]]:
    """Names and texts of the code, without documentation and without ages of a header."""
    texts = {id(node.value) for node in ast.walk(module.tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Name | ast.Attribute):
            yield AN_AGE.sub("", node.id if isinstance(node, ast.Name) else node.attr), node
        elif isinstance(node, Function | ast.ClassDef):
            yield AN_AGE.sub("", node.name), node
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in texts:
            yield AN_AGE.sub("", node.value), node


def test_a_longer_door_is_listed_before_its_prefix() -> None:
    names = list(DOORS)
    findings = [
        f"{later} after {earlier}"
        for number, earlier in enumerate(names)
        for later in names[number + 1 :]
        if is_within(later, earlier)
    ]
    report("DOORS is searched from the top:", findings)


def test_there_is_no_import_cycle() -> None:
    known = {module.name for module in modules("engine", "jobs", "cluster")}
    graph = {
        module.name: {target for name, _ in imports(module) if (target := _target(name, known))}
        for module in modules("engine", "jobs", "cluster")
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"import cycle: {' -> '.join([*trail[trail.index(name) :], name])}"
        if name in done:
            return
        for target in sorted(graph[name]):
            visit(target, (*trail, name))
        done.add(name)

    for name in sorted(graph):
        visit(name, ())


def _target(name: str, known: set[str]) -> str | None:
    """The module that ``a.b.c`` lies in: itself, or ``a.b`` where ``c`` is a name inside it."""
    if name in known:
        return name
    parent = name.rpartition(".")[0]
    return parent if parent in known else None


def test_files_and_functions_keep_their_size() -> None:
    findings = []
    for module in modules("engine", "jobs", "cluster", "tests", "benchmarks"):
        lines = module.text.count("\n")
        if lines > MAX_FILE_LINES:
            findings.append(f"{module.path.relative_to(ROOT)}: {lines} lines, at most {MAX_FILE_LINES}")
        for node in ast.walk(module.tree):
            if isinstance(node, Function):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > MAX_FUNCTION_LINES:
                    findings.append(
                        f"{module.at(node)}: {node.name} has {length}, at most {MAX_FUNCTION_LINES}"
                    )
    report("Split by meaning:", findings)


def test_every_public_name_has_a_docstring() -> None:
    findings = []
    for module in modules("engine", "jobs", "cluster"):
        if not ast.get_docstring(module.tree):
            findings.append(f"{module.path.relative_to(ROOT)}: the module itself")
        findings += [
            f"{module.at(node)}: {node.name}" for node in _public(module.tree) if not ast.get_docstring(node)
        ]
    report("Say shapes, units, errors and the source of a formula:", findings)


def _public(scope: ast.Module | ast.ClassDef) -> Iterator[Function | ast.ClassDef]:
    for node in scope.body:
        if isinstance(node, (Function, ast.ClassDef)) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from _public(node)


def is_weights_only(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and any(
        word.arg == "weights_only" and isinstance(word.value, ast.Constant) and word.value.value is True
        for word in node.keywords
    )


def test_nothing_is_unpickled_or_evaluated() -> None:
    findings = []
    for module in modules("engine", "jobs", "cluster", "benchmarks"):
        findings += [
            f"{module.at(node)}: import of {name}"
            for name, node in imports(module)
            if name.split(".")[0] in UNPICKLING_MODULES
        ]
        for node in ast.walk(module.tree):
            if module.name == READS_A_CHECKPOINT and is_weights_only(node):
                continue
            if isinstance(node, ast.Call) and (
                dotted(node.func) in UNSAFE_CALLS or any(word.arg == "allow_pickle" for word in node.keywords)
            ):
                findings.append(f"{module.at(node)}: {ast.unparse(node)[:60]}")
    report(
        "Weights are safetensors, facts are JSON, tables are Parquet; nothing runs code from a file:",
        findings,
    )


def test_the_engine_neither_prints_nor_starts_ray() -> None:
    findings = []
    for module in modules("engine", "jobs", "cluster"):
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.Call):
                continue
            name = dotted(node.func)
            if name == "print" and is_within(module.name, "engine"):
                findings.append(f"{module.at(node)}: print belongs to jobs/")
            if name == "ray.init" and module.name != STARTS_RAY:
                findings.append(f"{module.at(node)}: ray.init belongs to jobs/cluster_session.py")
    report("Call on_progress, return a value, or log:", findings)


if __name__ == "__main__":
    print(picture())
