"""The figures of the paper show the data they are given, against NumPy and scikit-learn."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from sklearn.metrics import f1_score, precision_score, recall_score

from dicepp_jax.metrics import THRESHOLDS, Confusion, Reliability
from dicepp_jax.plots import cases as case_plots
from dicepp_jax.plots import curves as curve_plots
from dicepp_jax.plots import paper_figures
from dicepp_jax.plots.curves import ThresholdCurves, threshold_summary
from dicepp_jax.plots.styles import line_styles
from dicepp_jax.plots.views import View
from dicepp_jax.split_calibration import SplitCalibration
from dicepp_jax.statistics import Bootstrap


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def view(seed, num_classes=2, shape=(24, 20), where=""):
    """A case whose image and truth are the same for every seed, but whose prediction differs."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*shape, 1), np.uint8)
    label = rng.integers(0, num_classes, shape, np.uint8)
    rng = np.random.default_rng([1, seed])
    probs = rng.dirichlet(np.ones(num_classes), shape).astype(np.float32)
    return View("case_0", where, image, label, probs)


def panels(figure):
    """The images drawn in a figure, by title."""
    return {axes.get_title(): axes for axes in figure.axes if axes.images and axes.get_title()}


def array(axes):
    return np.asarray(axes.images[0].get_array())


def check_readable(figure):
    figure.draw_without_rendering()
    assert figure.get_figwidth() <= 13
    sizes = [text.get_fontsize() for text in figure.findobj(Text) if text.get_text()]
    assert min(sizes) >= 8
    assert figure.get_facecolor()[:3] == (1, 1, 1)


@pytest.mark.parametrize("num_classes, target", [(2, 1), (3, 2)])
@pytest.mark.parametrize("methods", [1, 3])
def test_overconfidence_shows_the_confidence_of_the_errors(num_classes, target, methods):
    views = {f"m{seed}": view(seed, num_classes) for seed in range(methods)}
    figure = paper_figures.overconfidence(views, target, "cyst")
    shown = panels(figure)
    assert len(shown) == 2 + 2 * methods
    first = views["m0"]
    np.testing.assert_array_equal(array(shown["case_0"]), case_plots.display(first.image))
    np.testing.assert_array_equal(array(shown["cyst: truth"]), first.label == target)
    for name, of_method in views.items():
        probs = of_method.probs
        np.testing.assert_array_equal(array(shown[f"{name}: probability"]), probs[..., target])
        sure = [
            max(p)
            for p, y in zip(probs.reshape(-1, num_classes), of_method.label.ravel(), strict=True)
            if (np.argmax(p) == target) != (y == target)
        ]
        title = f"{name}: FP magenta, FN green\nmean confidence of errors {np.mean(sure):.2f}"
        coloured = array(shown[title])
        false = np.any(coloured != coloured[..., :1], -1)
        assert false.sum() == len(sure)
    check_readable(figure)


def test_overconfidence_of_a_method_without_errors_is_undefined():
    right = view(0)
    right = right._replace(probs=np.eye(2, dtype=np.float32)[right.label])
    figure = paper_figures.overconfidence({"exact": right}, 1, "cyst")
    assert "exact: FP magenta, FN green\nmean confidence of errors undefined" in panels(figure)


def sums(seed, num_classes=2):
    """Sums of 20 bins; no pixel in the last."""
    rng = np.random.default_rng([2, seed])
    voxels = rng.integers(1, 100_000, (num_classes, 20))
    voxels[:, -1] = 0
    positives = rng.binomial(voxels, 0.3)
    return Reliability(voxels, voxels * (np.arange(20) + 0.5) / 20, positives)


@pytest.mark.parametrize("count", [1, 3, 10])
def test_by_gamma_shows_heat_maps_above_their_histograms(count):
    gammas = [n / 2 for n in range(1, count + 1)]
    views = {gamma: view(n, 3) for n, gamma in enumerate(gammas)}
    totals = {gamma: sums(n, 3) for n, gamma in enumerate(gammas)}
    figure = paper_figures.by_gamma(views, totals, 2, "cyst")
    check_readable(figure)
    shown = panels(figure)
    assert list(shown) == ["case_0", "cyst: truth", *(f"gamma = {gamma:g}" for gamma in gammas)]
    np.testing.assert_array_equal(array(shown["case_0"]), case_plots.display(views[0.5].image))
    np.testing.assert_array_equal(array(shown["cyst: truth"]), views[0.5].label == 2)
    histograms = [axes for axes in figure.axes if axes.patches]
    assert len(histograms) == count
    limits = {axes.get_ylim() for axes in histograms}
    assert len(limits) == 1
    for gamma, histogram in zip(gammas, histograms, strict=True):
        heat = shown[f"gamma = {gamma:g}"]
        np.testing.assert_array_equal(array(heat), views[gamma].probs[..., 2])
        heights = [bar.get_height() for bar in histogram.patches]
        np.testing.assert_array_equal(heights, totals[gamma].voxels[2])
        lefts = [bar.get_x() for bar in histogram.patches]
        np.testing.assert_allclose(lefts, np.arange(20) / 20)
        assert histogram.get_yscale() == "log"
        low, high = histogram.get_ylim()
        assert 0 < low < min(h for h in heights if h) and max(heights) < high
        above, below = heat.get_position(), histogram.get_position()
        assert above.y0 > below.y1 and abs(above.x0 + above.x1 - below.x0 - below.x1) < 0.1
    bottoms = [round(axes.get_position().y0, 3) for axes in histograms]
    assert len(set(bottoms)) == -(-count // 5)


@pytest.mark.parametrize("methods, columns", [(1, 3), (4, 6), (8, 5)])
def test_by_loss_shows_the_dice_of_what_is_outlined(methods, columns):
    cases = [{f"m{n}": view(100 * case + n, 3) for n in range(methods)} for case in range(2)]
    cases[1] = {name: v._replace(case="case_1") for name, v in cases[1].items()}
    figure = paper_figures.by_loss(cases, 1, "cyst")
    check_readable(figure)
    drawn = [axes for axes in figure.axes if axes.images and axes.get_title()]
    assert len(drawn) == 2 * (2 + methods)
    assert figure.axes[0].get_gridspec().ncols == columns
    for views, row in zip(cases, (drawn[: 2 + methods], drawn[2 + methods :]), strict=True):
        first = views["m0"]
        assert row[0].get_title() == first.case
        np.testing.assert_array_equal(array(row[0]), case_plots.display(first.image))
        np.testing.assert_array_equal(array(row[1]), first.label == 1)
        for axes, (name, of_method) in zip(row[2:], views.items(), strict=True):
            np.testing.assert_array_equal(array(axes), of_method.probs[..., 1])
            found, truth = of_method.probs.argmax(-1) == 1, of_method.label == 1
            assert axes.get_title() == f"{name}\nDice {f1_score(truth.ravel(), found.ravel()):.2f}"
            # Every pixel with a neighbour of another predicted class is next to the outline.
            (outline,) = axes.collections
            points = np.concatenate([path.vertices for path in outline.get_paths()])
            rows, cols = np.nonzero(found[:, 1:] != found[:, :-1])
            expected = set(zip(cols + 0.5, rows.astype(float), strict=True))
            assert expected <= set(map(tuple, points))


def test_by_loss_states_the_slice_and_that_dice_is_undefined():
    first = view(0, where="slice 3 of 9")
    empty = np.zeros_like(first.probs)
    empty[..., 0] = 1
    other = first._replace(where="slice 7 of 9", label=0 * first.label, probs=empty)
    figure = paper_figures.by_loss([{"dsc": first, "dscpp": other}], 1, "cyst")
    titles = list(panels(figure))
    assert titles[0] == "case_0, slice 3 of 9"
    assert titles[-1] == "dscpp\nDice undefined, slice 7 of 9"


def test_by_loss_rows_are_as_tall_as_their_images():
    cases = [{"dsc": view(0, shape=(30, 20))}, {"dsc": view(1, shape=(10, 20))}]
    figure = paper_figures.by_loss(cases, 1, "cyst")
    figure.draw_without_rendering()
    tall, flat = (figure.axes[index].get_window_extent() for index in (0, 3))
    assert tall.width == pytest.approx(flat.width, rel=0.05)
    assert tall.height == pytest.approx(3 * flat.height, rel=0.05)


def counts(num_cases=9, num_classes=3):
    """Counts `(C, T)` by case, with the probabilities and labels that were counted."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, num_classes, (num_cases, 60))
    labels[0] = 0
    # No probability of the second case reaches the higher thresholds.
    probs = rng.beta(1, 1, (num_cases, 60, num_classes)) + 0.3 * np.eye(num_classes)[labels]
    probs = np.clip(probs, 0, 1)
    probs[1] *= 0.5
    found = {}
    for case in range(num_cases):
        called = probs[case, :, :, None] >= THRESHOLDS
        truth = (labels[case][:, None] == np.arange(num_classes))[..., None]
        parts = (called & truth, called & ~truth, ~called & truth, ~called & ~truth)
        found[f"case_{case}"] = Confusion(*(part.sum(0) for part in parts))
    return found, probs, labels


def oracle(score, probs, labels, threshold):
    """A score of every case by scikit-learn, NaN where it is undefined."""
    return np.array([
        score(y == 2, p[:, 2] >= threshold, zero_division=np.nan)
        for p, y in zip(probs, labels, strict=True)
    ])  # fmt: skip


SCORES = {"recall": recall_score, "precision": precision_score, "dice": f1_score}


def test_threshold_summary_is_the_mean_of_defined_cases_and_its_interval():
    found, probs, labels = counts()
    curves = threshold_summary(found, target=2)
    rng = np.random.default_rng(4)
    undefined = 0
    for name, score in SCORES.items():
        curve = getattr(curves, name)
        assert curve.mean.shape == curve.low.shape == curve.high.shape == THRESHOLDS.shape
        for index in (0, 30, 60, 90):
            values = oracle(score, probs, labels, THRESHOLDS[index])
            undefined += np.isnan(values).sum()
            values = values[~np.isnan(values)]
            assert curve.mean[index] == pytest.approx(values.mean(), abs=1e-6)
            means = rng.choice(values, (20_000, len(values))).mean(1)
            low, high = np.percentile(means, [2.5, 97.5])
            assert curve.low[index] == pytest.approx(low, abs=0.01)
            assert curve.high[index] == pytest.approx(high, abs=0.01)
    assert undefined > 4


def test_threshold_summary_of_one_case_has_no_interval():
    found, _, _ = counts(2)
    curves = threshold_summary({"case_1": found["case_1"]}, target=2)
    assert np.isfinite(curves.recall.mean).all() and np.isnan(curves.recall.low).all()
    paper_figures.threshold_curves({"dsc": curves}, "cyst").draw_without_rendering()


@pytest.mark.parametrize("methods, grid", [(1, (1, 1)), (2, (1, 2)), (5, (2, 3))])
def test_threshold_curves_have_bars_where_the_intervals_are(methods, grid):
    rng = np.random.default_rng(5)
    by_method = {
        f"m{n}": ThresholdCurves(*(Bootstrap(*rng.random((4, 91))) for _ in range(3)))
        for n in range(methods)
    }
    figure = paper_figures.threshold_curves(by_method, "cyst")
    check_readable(figure)
    assert figure.axes[0].get_gridspec().get_geometry() == grid
    drawn = [axes for axes in figure.axes if axes.lines]
    titles = [axes.get_title() for axes in drawn]
    assert titles == [f"{name}: cyst" for name in by_method]
    for axes, curves in zip(drawn, by_method.values(), strict=True):
        assert axes.get_xlabel() == "threshold T"
        places = []
        for line, bars, name in zip(axes.lines, axes.collections, SCORES, strict=True):
            curve = getattr(curves, name)
            assert line.get_label() == name.capitalize()
            assert line.get_color() == to_hex_of(bars)
            np.testing.assert_array_equal(line.get_xdata(), THRESHOLDS)
            np.testing.assert_array_equal(line.get_ydata(), curve.mean)
            ends = np.array(bars.get_segments())
            indices = np.searchsorted(THRESHOLDS, ends[:, 0, 0] - 1e-9)
            np.testing.assert_array_equal(np.diff(indices), 10)
            np.testing.assert_allclose(ends[:, 0, 1], curve.low[indices])
            np.testing.assert_allclose(ends[:, 1, 1], curve.high[indices])
            places += list(indices)
        assert len(set(places)) == len(places) == 27


def to_hex_of(bars):
    (colour,) = bars.get_colors()
    return "#" + "".join(f"{round(255 * value):02x}" for value in colour[:3])


def test_called_shows_the_errors_of_one_class_at_each_threshold():
    views = {f"m{n}": view(n, 3) for n in range(2)}
    figure = paper_figures.called(views, 2, "cyst", (0.2, 0.6))
    check_readable(figure)
    drawn = [axes for axes in figure.axes if axes.get_title()]
    assert len(drawn) == 6
    for row, (name, of_method) in zip((drawn[:3], drawn[3:]), views.items(), strict=True):
        assert row[0].get_title() == f"case_0\n{name}: cyst"
        np.testing.assert_array_equal(array(row[0]), of_method.probs[..., 2])
        for axes, value in zip(row[1:], (0.2, 0.6), strict=True):
            found, truth = of_method.probs[..., 2] >= value, of_method.label == 2
            recall = recall_score(truth.ravel(), found.ravel())
            precision = precision_score(truth.ravel(), found.ravel())
            assert axes.get_title() == (
                f"T = {value}: recall {recall:.2f}, precision {precision:.2f}"
            )
            for colour, wrong in (
                (case_plots.FALSE_POSITIVE, found & ~truth),
                (case_plots.FALSE_NEGATIVE, ~found & truth),
            ):
                np.testing.assert_array_equal(np.all(array(axes) == colour, -1), wrong)


LOSSES = ("CE", "Focal", "DSC", "DSC++", "Tversky", "Tversky++", "Focal Tversky")
LOSSES += ("Focal Tversky++", "Combo", "Combo++", "Unified Focal", "Unified Focal++")


def key(name):
    return name.lower().replace("++", "pp").replace(" ", "_")


def test_a_method_looks_the_same_in_every_figure():
    together = line_styles(LOSSES)
    looks = {tuple(style.values()) for style in together.values()}
    assert len(looks) == len(LOSSES)
    for name in LOSSES:
        assert line_styles([name])[name] == together[name]
        assert line_styles([key(name)])[key(name)] == together[name]
        made = (f"{name}, temperature 3.38", f"{key(name)}, ensemble", f"{key(name)} gamma=3")
        temperature, ensemble, hyper = line_styles(made).values()
        assert hyper == together[name]
        for style in (temperature, ensemble):
            assert style["color"] == together[name]["color"]
            assert style["linestyle"] not in ("-", "--")
        assert temperature["linestyle"] != ensemble["linestyle"]
    for name in ("Tversky", "Focal Tversky", "Combo", "Unified Focal"):
        original, plusplus = together[name], together[f"{name}++"]
        assert original["color"] == plusplus["color"]
        assert (original["linestyle"], plusplus["linestyle"]) == ("--", "-")
    assert together["DSC"]["color"] != together["DSC++"]["color"]


def test_the_settings_of_a_grid_are_coloured_from_dark_to_light():
    styles = line_styles([f"gamma={n}" for n in range(10)])
    light = [sum(to_rgb(style["color"])) for style in styles.values()]
    assert light == sorted(light) and len(set(light)) == 10
    assert {style["linestyle"] for style in styles.values()} == {"-"}
    known = line_styles(["gamma=2", "dsc"])["dsc"]
    assert known == line_styles(["dsc"])["dsc"]


@pytest.mark.parametrize("methods", [2, 12])
def test_a_reliability_diagram_states_the_calibration_error_beside_it(methods):
    curves = {name: sums(n, 3) for n, name in enumerate(LOSSES[:methods])}
    classes = ("background", "kidney", "cyst")
    # Of an older run no interval is known.
    intervals = {
        name: [SplitCalibration(label, 0, 0.1, 0.25, 0, 0, 0, 0) for label in classes[1:]]
        for name in LOSSES[1:methods]
    }
    figure = curve_plots.reliability_diagram(curves, classes, intervals)
    check_readable(figure)
    styles = line_styles(LOSSES)
    for target, axes in enumerate(figure.axes[:2], 1):
        said = [text.get_text() for text in axes.get_legend().get_texts()]
        expected = ["perfect calibration"]
        for name, (voxels, confidence, positives) in curves.items():
            gap = np.abs(confidence[target] - positives[target]).sum() / voxels[target].sum()
            interval = ", 0.1000 to 0.2500" if name in intervals else ""
            expected.append(f"{name} (ECE {gap:.4f}{interval})")
            line = next(line for line in axes.lines if line.get_label() == name)
            assert line.get_color() == styles[name]["color"]
            assert line.get_linestyle() == styles[name]["linestyle"]
        assert said == expected
        legend, diagram = axes.get_legend().get_window_extent(), axes.get_window_extent()
        assert legend.x0 >= diagram.x1 and legend.height < diagram.height
        assert legend.x1 <= figure.bbox.x1


def test_what_is_made_of_a_loss_looks_like_nothing_else_of_it():
    of_dsc = (
        "",
        ", temperature 3.22",
        ", Platt scaling",
        ", vector scaling",
        ", auxiliary network",
    )
    of_dsc += (", ensemble of 3", ", dropout = 0.2", ", dropout = 0.2, MC dropout", ", then CE")
    styles = line_styles([f"DSC{end}" for end in of_dsc]).values()
    assert len({(style["linestyle"], style["marker"]) for style in styles}) == len(of_dsc)
    assert len({style["color"] for style in styles}) == 1
