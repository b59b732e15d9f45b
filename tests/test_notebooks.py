"""The notebooks run from top to bottom and find again what they are committed with."""

import ast
import copy
import re
import tempfile
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")

# Share of a number that it may differ by, and amount. Training goes another way where the compiler
# adds in another order.
CLOSE = {
    "losses": (0.02, 0.01),
    "gamma_sweep": (0.02, 0.001),
    "gradient_instability": (0.03, 0.002),
    "thresholding": (0.15, 0.05),
    "your_own_data": (0.15, 0.05),
}

notebooks = pytest.mark.parametrize("name", CLOSE)


def read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell):
    """What a cell prints, without the spaces whose number hangs on the length of numbers."""
    text = "".join(output.text for output in cell.outputs if output.output_type == "stream")
    return " ".join(text.split())


def shown(cell):
    """The kinds of what a cell shows."""
    return [sorted(output.data) for output in cell.outputs if "data" in output]


def test_every_notebook_is_run():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(CLOSE)


@notebooks
def test_finds_again_what_it_is_committed_with(name):
    committed, found = read(name), copy.deepcopy(read(name))
    there = {"metadata": {"path": str(FOLDER)}}
    NotebookClient(found, timeout=300, resources=there).execute()
    for was, now in zip(code(committed), code(found), strict=True):
        assert shown(now) == shown(was), was.source
        assert NUMBER.sub("#", printed(now)) == NUMBER.sub("#", printed(was)), was.source
        numbers = [np.array(NUMBER.findall(printed(cell)), float) for cell in (now, was)]
        np.testing.assert_allclose(*numbers, *CLOSE[name], err_msg=was.source)


@notebooks
def test_is_committed_as_run_without_a_trace_of_where_and_when(name):
    notebook, text = read(name), (FOLDER / f"{name}.ipynb").read_text()
    assert [cell.execution_count for cell in code(notebook)] == [
        n for n, _ in enumerate(code(notebook), 1)
    ]
    assert not any("execution" in cell.metadata for cell in code(notebook))
    assert not any(place in text for place in (tempfile.gettempdir() + "/", str(Path.home()) + "/"))
    assert {output.get("name", "stdout") for cell in code(notebook) for output in cell.outputs} == {
        "stdout"
    }
    assert len(text) < 600_000


@notebooks
def test_defines_no_function_and_no_class(name):
    for cell in code(read(name)):
        if cell.source.startswith("%%bash"):
            continue
        python = re.sub(r"^%.*$", "", cell.source, flags=re.MULTILINE)
        kinds = {type(node) for node in ast.walk(ast.parse(python))}
        assert not kinds & {ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef}, cell.source


@notebooks
def test_ends_with_what_to_read_next(name):
    last = read(name).cells[-1]
    links = re.findall(r"\]\(([\w./]+)\)", last.source)
    assert last.cell_type == "markdown" and "Next:" in last.source and links
    assert all((FOLDER / link).exists() for link in links)
