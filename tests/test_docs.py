"""The code of the README and of docs/ runs as printed, and says what is true."""

import importlib.util
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from configs import base
from dicepp_jax import losses
from dicepp_jax.losses import LOSSES, get_loss

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "results/*.md", "notebooks/*.ipynb")
    for path in ROOT.glob(pattern)
)


def read_page(path):
    """The Markdown of a page or of a notebook."""
    text = (ROOT / path).read_text()
    if not path.endswith(".ipynb"):
        return text
    cells = json.loads(text)["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def anchors(path):
    """The names that GitHub gives to the headings of a page."""
    text = re.sub(r"```.*?```", "", read_page(path), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    """Pages, figures and headings; what is elsewhere on the web is not asked for."""
    for link in re.findall(r"(?<=\]\()[^)\s]+(?=\))|(?<=src=\")[^\"]+", read_page(page)):
        if re.match(r"https?:|mailto:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.resolve().relative_to(ROOT).as_posix()), link


@pytest.mark.parametrize("page", PAGES)
def test_commands_name_what_there_is(page):
    text = read_page(page)
    for command in re.findall(r"-m experiments\.(\w+)", text):
        if not command.isupper():  # COMMAND, in a sentence on all of them.
            assert importlib.util.find_spec(f"experiments.{command}"), command
    for config in re.findall(r"\bconfigs/(\w+)\.py", text):
        assert config == "NAME" or (ROOT / "configs" / f"{config}.py").exists(), config
    for field in re.findall(r"--config\.([a-z_.]+)", text):
        here = base.get_config()
        for name in field.rstrip(".").split("."):
            assert name in here, field
            here = here[name]


def run_blocks(path):
    """All Python of a page, in one namespace; a reader's arrays may broadcast."""
    namespace = {}
    with jax.numpy_rank_promotion("allow"):
        for block in re.findall(r"```python\n(.*?)```", (ROOT / path).read_text(), re.DOTALL):
            exec(compile(block, path, "exec"), namespace)
    return namespace


def defined_tests():
    """The names of all tests."""
    return {
        name
        for path in (ROOT / "tests").glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
    }


@pytest.mark.parametrize("page", ["docs/reliability.md", "docs/data.md"])
def test_promises_name_tests_that_exist(page):
    named = set(re.findall(r"`(test_\w+)`", read_page(page)))
    assert named and named <= defined_tests(), named - defined_tests()


def test_every_promise_names_a_test():
    rows = [row for row in read_page("docs/reliability.md").splitlines() if row.startswith("| ")]
    promises = [row for row in rows if not row.startswith("| promise |")]
    assert len(promises) > 20
    for row in promises:
        assert re.search(r"\| `test_\w+`[^|]* \|$", row), row


def test_situations_name_tests_that_exist():
    (_, rest) = read_page("docs/data.md").split("\n## Situations\n")
    rows = [row for row in rest.split("\n## ")[0].splitlines() if row.startswith("| ")]
    defined = defined_tests()
    for row in rows[1:]:
        named = set(re.findall(r"`(test_\w+)`", row.rsplit("|", 2)[1]))
        assert named <= defined, row
        # What cannot be detected is documented, and marked by a dash.
        assert named or row.endswith("| - |"), row


def test_readme():
    found = run_blocks("README.md")
    expected = oracles.loss("dscpp", np.asarray(found["logits"]), np.asarray(found["labels"]))
    np.testing.assert_allclose(found["values"], expected, rtol=1e-4)
    # No label is 255.
    np.testing.assert_allclose(found["ignoring"], expected, rtol=1e-4)
    assert found["gradient"].shape == (4, 128, 128, 2) and np.isfinite(found["gradient"]).all()


def test_metrics_page():
    found = run_blocks("docs/metrics.md")
    threshold = found["metrics"].threshold_for(
        found["validation"], found["metrics"].THRESHOLDS, recall=0.95
    )
    assert threshold.shape == (2,)
    temperature = found["fit_temperature"](3 * found["logits"], found["noisy"])
    assert temperature == pytest.approx(3, rel=0.02)


@pytest.fixture(scope="module")
def page():
    return run_blocks("docs/losses.md")


def test_losses_page(page):
    for library in ("optax", "equinox", "nnx", "haiku"):
        values = np.array(page[f"{library}_values"])
        assert values[-1] < values[0], library
    logits, labels = np.asarray(page["logits"]), np.asarray(page["labels"])
    expected = oracles.loss("dscpp", logits, labels)
    for name in ("of_probabilities", "of_whole", "by_hand"):
        np.testing.assert_allclose(page[name], expected, rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(page["per_class"].mean(-1), expected, rtol=1e-5)
    np.testing.assert_allclose(
        page["ignoring"], oracles.loss("dscpp", logits[:, 4:], labels[:, 4:]), rtol=1e-5
    )
    grid = [oracles.loss("dscpp", logits, labels, gamma=gamma) for gamma in page["gammas"]]
    np.testing.assert_allclose(page["grid"], grid, rtol=1e-5)
    assert page["by_gamma"] < 0
    # One voxel is missed, and Dice hangs on the noise of its logit.
    assert page["norm"].shape == (4,) and page["norm"][1] > page["norm"][3]
    assert page["unstable"]["dsc"][0] > 0.5 > page["unstable"]["dsc"][1]
    assert page["per_channel"].shape == (2, 3)


def test_grids_page():
    val_losses = run_blocks("docs/grids.md")["val_losses"]
    assert [sorted(losses) for losses in val_losses] == [[0, 1, 2]] * 2
    assert all(val_losses[1][n] < val_losses[0][n] for n in range(3))


def test_devices_page():
    page = run_blocks("docs/devices.md")
    assert page["devices"].count == 8
    assert page["values"][-1] < page["values"][0]


def test_the_optax_step_takes_every_loss(page, monkeypatch):
    # Traced together, the steps of all losses are one program to compile. A calibration error can
    # rise in the first step: equal probabilities are in one bin, and then they are in several.
    @jax.jit
    def two_values(images, labels):
        values = {}
        for name in sorted(set(LOSSES) - {"l1_ace", "soft_l1_ace"}):
            monkeypatch.setitem(page, "loss", get_loss(name))
            params = {"w": jnp.zeros((1, 2)), "b": jnp.zeros(2)}
            state = page["optimiser"].init(params)
            params, state, first = page["optax_step"].__wrapped__(params, state, images, labels)
            values[name] = first, page["mean_loss"](params, images, labels)
        return values

    with jax.numpy_rank_promotion("allow"):
        values = two_values(page["images"], page["labels"])
    for name, (first, second) in values.items():
        assert second < first, name


def test_conversions_are_monai(page):
    """Against the formulae of MONAI 1.6.1, which adds 1e-5 where this package adds 1e-7."""
    logits, channels, marks = (np.float64(page[n]) for n in ("logits", "channels", "marks"))
    y = oracles.one_hot(page["labels"], 2)
    p, s = oracles.softmax(logits), 1 / (1 + np.exp(-channels))

    def dice(p, y, axes=(1, 2)):
        return 1 - (2 * (p * y).sum(axes) + 1e-5) / (p.sum(axes) + y.sum(axes) + 1e-5)

    focal = -y * (1 - p) ** 2 * np.log(p)
    right = np.where(marks == 1, s, 1 - s)
    overlap = (p * y).sum((1, 2))
    jaccard = 1 - overlap / (p.sum((1, 2)) + y.sum((1, 2)) - overlap)
    given = page["logits"], page["labels"]
    for found, expected in (
        (page["of_sigmoids"], dice(s, marks)),
        (page["of_batch"], dice(p, y, (0, 1, 2))[None]),
        (page["focal_of_sigmoids"], (-((1 - right) ** 2) * np.log(right)).mean()),
        (page["focal_of_alpha"], (focal * [0.75, 0.25]).mean()),
        (losses.dsc(*given), dice(p, y).mean(-1)),
        (losses.focal(*given, alpha=1.0).mean() / 2, focal.mean()),
        (losses.tversky(*given, alpha=1.0, beta=1.0), jaccard.mean(-1)),
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_page_names_what_there_is():
    text = (ROOT / "docs" / "losses.md").read_text()
    imported = re.findall(r"from dicepp_jax.losses import (.*)", text)
    names = {name.strip() for line in imported for name in line.split(",")}
    names |= set(
        re.findall(r"`(\w*(?:(?:focal|ce)_map|_ce|dsc|focal|tversky|combo)(?:pp)?)[`(]", text)
    )
    assert {"dsc_ce", "unified_focal", "focal_map", "tversky", "get_loss"} <= names
    assert names <= set(losses.__all__)
