"""How the house is built: which module may import which, and what mains are."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.console import COMMANDS

ROOT = Path(__file__).parents[1]
PACKAGES = ("setup", "workdirs", "report", "training", "reproduce")
"""Those of experiments, each of which may import those before it."""
MAIN_LINES = 110


def modules():
    """Paths of all modules by their dotted name."""
    found = {}
    for package in ("dicepp_jax", "experiments", "configs"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports(name, nodes):
    """The modules of this project that a module imports in some of its syntax nodes."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                found.add(submodule if submodule in MODULES else node.module)
    return (found & set(MODULES)) - {name}


TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}
GRAPH = {name: imports(name, ast.walk(tree)) for name, tree in TREES.items()}
"""What each module imports, within functions as well."""
LOADED = {name: imports(name, tree.body) for name, tree in TREES.items()}
"""What each module imports when it is loaded."""


def mains():
    """The modules that python -m runs."""
    return {name: path for name, path in MODULES.items() if "__main__" in path.read_text()}


def rank(name):
    """Where a module of experiments stands: in a package of `PACKAGES`, or above them all."""
    package = name.split(".")[1]
    return PACKAGES.index(package) if package in PACKAGES else len(PACKAGES)


def test_there_is_no_import_circle():
    assert list(graphlib.TopologicalSorter(LOADED).static_order())


@pytest.mark.parametrize("name", [n for n in MODULES if n.startswith(("dicepp_jax", "configs"))])
def test_the_library_imports_no_command(name):
    assert not {used for used in GRAPH[name] if used.startswith("experiments")}
    if name.startswith("dicepp_jax"):
        assert not {used for used in GRAPH[name] if used.startswith("configs")}


@pytest.mark.parametrize("name", [n for n in MODULES if n.startswith("experiments.")])
def test_no_arrow_of_experiments_points_upwards(name):
    used = {u for u in GRAPH[name] if u.startswith("experiments.")}
    assert {u for u in used if rank(u) > rank(name)} == set()


def test_mains_are_short_known_and_imported_by_nobody():
    commands = {name.split(".")[1] for name in mains() if name != "experiments.console"}
    assert commands == set(COMMANDS)
    for name, path in mains().items():
        assert len(path.read_text().splitlines()) <= MAIN_LINES, path
        assert not {user for user, used in GRAPH.items() if name in used}


def test_every_module_has_a_name_of_its_own():
    """Configs apart, which are named after what they configure."""
    names = [n.rsplit(".", 1)[-1] for n in MODULES if not n.startswith("configs.")]
    assert {n for n in names if names.count(n) > 1} == {"__main__"}


def test_importing_a_module_defines_no_flag():
    code = (
        "import importlib, sys\n"
        "from absl import flags\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
        "print(*flags.FLAGS.flags_by_module_dict())"
    )
    names = [name for name in MODULES if name.startswith("experiments")]
    done = subprocess.run(
        [sys.executable, "-c", code, *names], cwd=ROOT, capture_output=True, text=True, check=True
    )
    defining = done.stdout.split()
    assert not [module for module in defining if module.startswith("experiments")]
    assert "config" not in defining
