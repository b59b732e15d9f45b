"""Reports of synthetic scores against NumPy and scipy, and what is written against its parsers."""

import functools
import html.parser
import itertools
import json
import re
import shlex
import types

import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy import stats

from configs import paper as cells
from dicepp_jax import metrics, score_files
from dicepp_jax.atomic import write_text
from dicepp_jax.data import SETS
from dicepp_jax.metrics import Confusion, Reliability
from dicepp_jax.plots import views
from dicepp_jax.rows import LesionBin, Row, read_csv
from dicepp_jax.score_files import SplitScores
from experiments.report import __main__ as report_main
from experiments.report import figures, markup, write
from experiments.report.markup import Cell, Column, ReportTable
from experiments.report.published import AT_INPUT, FRONTIER, PLOTTED, REPORTED
from experiments.report.ranks import RANKED
from experiments.report.table_numbers import Number
from experiments.report.write import CurvePoint, TableComparison
from experiments.reproduce import __main__ as reproduce_main
from experiments.workdirs import derived, directory, log

CASES = 8
BETTER = {"nll": 0.1, "brier": 0.03, "ece": 0.02, "dice": 0.8, "jaccard": 0.7}
WORSE = {"nll": 0.3, "brier": 0.06, "ece": 0.05, "dice": 0.7, "jaccard": 0.6}
NEW = {
    "nll_band": ((), "band", "nll"),
    "ece_band": ((), "band", "ece"),
    "nll_input": ((), "input", "nll"),
    "brier_input": ((), "input", "brier"),
    "aurc": (("all",), "image", "aurc"),
    "entropy_auroc": (("all",), "image", "entropy_auroc"),
}
"""Classes, region and metric of what runs of older versions lack."""
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "wbr"}


def values(means, cases=CASES, seed=0):
    """Scores by metric, within 0.01 of the means."""
    rng = np.random.default_rng(seed)
    return {metric: mean + rng.uniform(-0.01, 0.01, cases) for metric, mean in means.items()}


def write_scores(folder, spec, by_metric, recall_falls_by=0.5, **known):
    """Scores of foreground classes that all have the same; recall falls evenly with T.

    They are those of an older version, unless there are metrics of the band and more is known.
    """
    cases = [f"case {n}" for n in range(len(by_metric["nll"]))]
    rows = [
        Row(case, label, region, metric, float(value))
        for label, region in itertools.product(spec.classes, ("image", "field of view"))
        for metric, of_metric in by_metric.items()
        if metric not in NEW
        for case, value in zip(cases, of_metric, strict=True)
    ]
    rows += [
        Row(case, label, *NEW[metric][1:], float(value))
        for metric, of_metric in by_metric.items()
        if metric in NEW
        for label in NEW[metric][0] or spec.classes
        for case, value in zip(cases, of_metric, strict=True)
    ]
    shape = (len(spec.classes), len(metrics.THRESHOLDS))
    tp = np.broadcast_to(
        np.round(1000 * (0.9 - recall_falls_by * np.linspace(0, 1, shape[1]))), shape
    ).astype(int)
    counts = Confusion(tp, np.broadcast_to(tp[:, ::-1], shape), 1000 - tp, tp)
    zeros = np.zeros((shape[0], 20))
    size = (4, 4)
    view = views.View(
        "case 0",
        "",
        np.zeros((*size, 3), np.uint8),
        np.zeros(size, int),
        np.ones((*size, shape[0])),
    )
    scored = SplitScores(
        rows,
        Reliability(zeros.astype(int), zeros, zeros.astype(int)),
        dict.fromkeys(cases, counts),
        [(view,) * (shape[0] - 1)],
        **known,
    )
    score_files.write(folder, scored, spec.classes)


def write_run(
    folder, cell, by_metric, gamma=None, filters=None, data="d" * 32, spec=None, falls=0.5
):
    """The directory of a run of a cell that has ended."""
    config = cells.get_config(cell)
    config.loss.gamma = gamma
    config.model.filters = filters or config.model.filters
    spec = spec or SETS[config.data.name].spec
    folder.mkdir(parents=True)
    about = {
        "config": json.loads(config.to_json()),
        "data": data,
        "date": "2023-04-05T06:07:08+00:00",
        "versions": {"jax": "0.10.2"},
        "git_commit": "0123456789" * 4,
        "devices": ["cpu cpu"],
        "cpu_cores": 2,
    }
    write_text(folder / directory.RUN, json.dumps(about))
    directory.write_spec(folder, spec)
    for epoch in range(3):
        with (folder / log.LOG).open("a") as file:
            file.write(f"{json.dumps({'epoch': epoch})}\n")
    write_scores(folder, spec, by_metric, falls)
    return folder


def write_temperature(run, temperature, by_metric):
    folder = run / derived.TEMPERATURE
    write_scores(folder, directory.read_spec(run), by_metric)
    derived.write(folder, derived.TEMPERATURE, [run], temperature=temperature)


@pytest.fixture(autouse=True)
def one_figure(monkeypatch):
    """Of figures there is a cheap one, whose title asks for escapes."""

    def draw():
        return plt.subplots(figsize=(1, 1))[0]

    one = figures.ReportFigure("figure", 'A "figure" & <more>', "How it is read.", draw)
    monkeypatch.setattr(figures, "figures", lambda gathered: [one])


DSC = values(WORSE, seed=1)
DSCPP = values(BETTER, seed=2)
TEMPERED = values({**WORSE, "nll": 0.15, "brier": 0.045, "ece": 0.03}, seed=3)


def write_drive(folder, dsc=DSC, dscpp=DSCPP, scale="tiny"):
    """DSC after temperature scaling, too; DSC++ with two seeds and their ensemble."""
    cell = functools.partial("{}/drive/{}".format, scale)
    run = write_run(folder / "dsc", cell("dsc"), dsc, falls=0.3)
    write_temperature(run, 3.375, TEMPERED)
    runs = [
        write_run(folder / f"dscpp_{seed}", cell(f"dscpp_seed={seed}"), of_seed, falls=0.8)
        for seed, of_seed in enumerate((dscpp, values(BETTER, seed=4)))
    ]
    ensemble = folder / "ensemble"
    write_scores(ensemble, directory.read_spec(run), values(BETTER, seed=5))
    derived.write(ensemble, derived.ENSEMBLE, runs, evaluations=2)


@pytest.fixture
def drive(tmp_path):
    write_drive(tmp_path / "runs")
    return tmp_path / "runs"


def made(workdir):
    """The report of a directory."""
    write.write([workdir], workdir / "report")
    return workdir / "report"


def flat(row):
    """The fields of a row and of the rows nested in it."""
    nested = [value for value in row if isinstance(value, tuple)]
    fields = (row._asdict(), *(value._asdict() for value in nested))
    return types.SimpleNamespace(**{name: v for of in fields for name, v in of.items()})


def numbers(folder, **fields):
    rows = map(flat, read_csv(folder / "tables.csv", Number))
    return [row for row in rows if fields.items() <= vars(row).items()]


def markdown_rows(text, first):
    """Cells of the lines of tables that begin with a cell."""
    lines = [line[2:-2].split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return [line for line in lines if line[0] == first]


def test_numbers(drive):
    folder = made(drive)
    (nll,) = numbers(folder, method="dsc", metric="nll")
    assert (nll.table, nll.dataset, nll.scale, nll.label) == (4, "drive", "tiny", "vessel")
    assert (nll.method, nll.seed) == ("dsc", 0)
    assert nll.mean == pytest.approx(DSC["nll"].mean(), rel=1e-12)
    # The bootstrap's standard error is that of the mean with n in place of n - 1.
    assert nll.error == pytest.approx(DSC["nll"].std() / np.sqrt(CASES), rel=0.05)
    assert nll.low < nll.mean < nll.high
    assert (nll.cases, nll.undefined, nll.paper_mean, nll.paper_error) == (CASES, 0, 0.204, 0.013)
    assert nll.difference_in_errors == pytest.approx((DSC["nll"].mean() - 0.204) / 0.013)
    (ece,) = numbers(folder, method="dscpp", metric="ece")
    assert ece.mean == pytest.approx(DSCPP["ece"].mean())
    assert np.isnan([ece.paper_mean, ece.difference_in_errors]).all()
    shown = {(row.method, row.metric) for row in numbers(folder)}
    methods = "dsc", "dscpp", "dsc, temperature", "dscpp, ensemble of 2"
    assert shown == {*itertools.product(methods, PLOTTED)}


def test_rows(drive):
    text = (made(drive) / "report.md").read_text()
    row = markdown_rows(text, "DSC")[0]
    error = numbers(drive / "report", method="dsc", metric="nll")[0].error
    difference = f"{(DSC['nll'].mean() - 0.204) / 0.013:+.1f} SE"
    assert row[1:4] == [f"{DSC['nll'].mean():.4f} ± {error:.4f}", "0.204 ± 0.013", difference]
    assert row[-2:] == ["0", "3"]
    tempered = markdown_rows(text, "DSC, temperature 3.38")[0]
    assert tempered[1].startswith(f"{TEMPERED['nll'].mean():.4f} ± ")
    assert tempered[2:4] == ["", ""]
    assert markdown_rows(text, "DSC++, ensemble of 2")[0][-2:] == ["2 seeds", "6"]
    assert f"over {CASES} test cases" in text
    assert "Tiny scale, no result: 32 x 32, 2 filters, depth 2, at most 2 epochs" in text
    assert (
        "the paper: 512 x 512, 32 filters, depth 4, at most 1000 epochs, patience 25 / 50" in text
    )
    assert "1 x cpu with 2 CPU cores; jax 0.10.2; commit 0123456; 2023-04-05." in text


def test_several_raters(tmp_path):
    of_raters = {"rater_nll": 0.4, "rater_brier": 0.02, "rater_ece": 0.03, "rater_dice": 0.79}
    of_raters |= {f"p_marked_by_{k}_of_2": 0.1 + 0.3 * k for k in range(3)}
    by_method = {
        "dsc": values({**WORSE, **of_raters}, seed=1),
        "dscpp": values({**BETTER, **of_raters, "rater_brier": 0.01}, seed=1),
    }
    for method, by_metric in by_method.items():
        write_run(tmp_path / method, f"tiny/drive/{method}", by_metric)
    text = (made(tmp_path) / "report.md").read_text()
    (head,) = (line for line in text.splitlines() if "| p, 0 of 2 |" in line)
    assert head == "| method | Dice | NLL | Brier | ECE | p, 0 of 2 | p, 1 of 2 | p, 2 of 2 |"
    columns = ("dice", *(metric for metric in of_raters if metric != "rater_dice"))
    for method, title in (("dsc", "DSC"), ("dscpp", "DSC++")):
        *_, row = markdown_rows(text, title)
        means = [f"{by_method[method][metric].mean():.4f}" for metric in columns]
        assert [cell.split(" ± ")[0] for cell in row[1:]] == means
    ((_, dice, *blank),) = markdown_rows(text, "the other raters")
    assert dice.startswith(f"{by_method['dsc']['rater_dice'].mean():.4f} ± ") and not any(blank)
    # The tests are those of the reported metrics alone.
    compared = read_csv(tmp_path / "report" / "comparisons.csv", TableComparison)
    assert {row.comparison.metric for row in compared} == set(PLOTTED)
    assert "raters" not in (made_without(tmp_path / "without") / "report.md").read_text()


def made_without(folder):
    write_run(folder / "dsc", "tiny/drive/dsc", DSC)
    return made(folder)


def test_the_best_are_bold(tmp_path):
    one, two = values(BETTER), values(WORSE)
    two = {**two, "nll": one["nll"] + 1e-7, "dice": one["dice"] + 0.001}
    write_run(tmp_path / "ce", "tiny/drive/ce", one)
    write_run(tmp_path / "focal", "tiny/drive/focal", two)
    write_run(tmp_path / "dsc", "tiny/drive/dsc", values(WORSE))
    text = (made(tmp_path) / "report.md").read_text()
    bold = {
        name: [cell.startswith("**") for cell in markdown_rows(text, name)[0][1:]]
        for name in ("CE", "Focal", "DSC++")
    }
    # Of each metric ours, the paper's and the difference; of ECE ours alone. Equal as printed:
    # NLL. The paper has CE and DSC++ with the lowest Brier of 0.024.
    assert bold["CE"][:7] == [True, False, False, True, True, False, True]
    assert bold["Focal"][:7] == [True, False, False, False, False, False, False]
    assert bold["CE"][7:10] == [False, False, False]
    assert bold["Focal"][7:10] == [True, False, False]
    assert bold["DSC++"][:10] == [False, True, False, False, True, False, False, False, True, False]


def test_what_is_missing_has_a_command(tmp_path):
    write_run(tmp_path / "dsc", "reduced/drive/dsc", DSC)
    write_run(tmp_path / "gamma", "reduced/drive/dscpp", DSCPP, gamma=2.0)
    write_run(tmp_path / "phantom", "tiny/phantom_3d/dsc", DSC)
    text = (made(tmp_path) / "report.md").read_text()
    assert markdown_rows(text, "CE")[0][1:4] == ["missing", "0.051 ± 0.003", ""]
    assert markdown_rows(text, "gamma = 2")[0][1] != "missing"
    assert markdown_rows(text, "gamma = 5")[0][1] == "missing"
    commands = [shlex.split(line) for line in text.splitlines() if line.startswith("    python")]
    runs = {}
    for words in commands:
        if words[2] != "experiments.reproduce":
            path, _, cell = words[3].removeprefix("--config=").partition(":")
            assert path == "configs/paper.py"
            runs[cell] = words[2], words[4:]
            cells.get_config(cell)
    given = ["--config.data.manual_dir=FOLDER"]
    assert runs == {
        "reduced/drive/gamma": ("experiments.sweep", given),
        **{
            f"reduced/drive/{name}": ("experiments.run", given) for name in ("ce", "focal", "dscpp")
        },
        **{f"tiny/phantom_3d/{name}": ("experiments.run", []) for name in ("ce", "focal", "dscpp")},
    }
    parsed = [
        reproduce_main.parse(words[3:]) for words in commands if words[2].endswith("reproduce")
    ]
    asked = {(o.table[0], *o.data, *o.scale) for o in parsed}
    others = "bus2017", "dsb2018", "isic2018", "cvc_clinicdb"
    assert asked == {
        (3, "drive", "reduced"),
        (4, "drive", "reduced"),
        (5, "phantom_3d", "tiny"),
        (5, "kits19", "reduced"),
        (6, "drive", "reduced"),
        *((4, name, "reduced") for name in others),
    }
    assert "BUS2017: no runs." in text


def test_scales_and_splits_have_tables_of_their_own(tmp_path):
    write_run(tmp_path / "tiny", "tiny/drive/dsc", DSC)
    write_run(tmp_path / "custom", "tiny/drive/dsc", DSCPP, filters=3)
    write_run(tmp_path / "other", "tiny/drive/dsc", DSCPP, data="e" * 32)
    folder = made(tmp_path)
    assert {row.scale for row in numbers(folder)} == {"tiny", "tiny_2", "custom"}
    text = (folder / "report.md").read_text()
    custom = text[text.index("DRIVE, custom scale") : text.index("## Table 5")]
    assert "Custom scale: 32 x 32, 3 filters, depth 2" in custom
    assert "Missing: CE, Focal, DSC++." in custom
    assert "python" not in custom[: custom.index("no runs")]


def test_two_runs_of_a_cell(tmp_path):
    write_run(tmp_path / "one", "tiny/drive/dsc", DSC)
    write_run(tmp_path / "two", "tiny/drive/dsc", DSCPP)
    with pytest.raises(ValueError, match=r"(?s)/one and .*/two are both DSC with seed 0 on DRIVE"):
        write.write([tmp_path], tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_nothing_found(tmp_path):
    with pytest.raises(SystemExit, match="error: .* contains no scores"):
        report_main.main([str(tmp_path)])
    with pytest.raises(SystemExit, match="error: .*gone does not exist"):
        report_main.main([str(tmp_path / "gone")])


def test_comparisons(drive):
    rows = [*map(flat, read_csv(made(drive) / "comparisons.csv", TableComparison))]
    pairs = [("dscpp", "dsc"), ("dsc, temperature", "dscpp")]
    assert [(r.method_a, r.method_b) for r in rows] == [p for p in pairs for _ in PLOTTED]
    assert {row.label for row in rows} == {"vessel"}
    expected = []
    for (a, b), metric in itertools.product(((DSCPP, DSC), (TEMPERED, DSCPP)), PLOTTED):
        expected.append((
            (a[metric] - b[metric]).mean(),
            stats.ranksums(a[metric], b[metric]).pvalue,
            stats.wilcoxon(a[metric], b[metric], method="exact").pvalue,
        ))  # fmt: skip
    found = [(row.difference, row.rank_sum, row.signed_rank) for row in rows]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    p = np.array([row[2] for row in expected])
    order, left = np.argsort(p), np.arange(len(p), 0, -1)
    holm = np.empty(len(p))
    holm[order] = np.minimum(1, np.maximum.accumulate(p[order] * left))
    np.testing.assert_allclose([row.holm for row in rows], holm)
    text = (drive / "report" / "report.md").read_text()
    shown = markdown_rows(text, "DSC++ − DSC")[0]
    assert shown[1:3] == ["NLL", f"{expected[0][0]:.4f}".replace("-", "−")]
    assert f"all {len(rows)} lines of this table" in text


def test_methods_with_other_cases_are_not_compared(tmp_path):
    write_run(tmp_path / "dsc", "tiny/drive/dsc", values(WORSE, cases=5))
    write_run(tmp_path / "dscpp", "tiny/drive/dscpp", DSCPP)
    folder = made(tmp_path)
    text = (folder / "report.md").read_text()
    assert "Not compared: dscpp and dsc must have the same cases" in text
    assert "over 5 or 8 test cases" in text
    assert not (folder / "comparisons.csv").exists()


def test_seeds(drive):
    text = (made(drive) / "report.md").read_text()
    seeds = [line for line in markdown_rows(text, "DSC++") if len(line) == 10]
    assert [line[1] for line in seeds] == ["0", "1"]
    other = values(BETTER, seed=4)
    assert [line[2][:6] for line in seeds] == [f"{s['nll'].mean():.4f}" for s in (DSCPP, other)]
    (shown,) = numbers(drive / "report", method="dscpp", metric="nll")
    assert (shown.seed, shown.mean) == (0, pytest.approx(DSCPP["nll"].mean()))


def test_kits19(tmp_path):
    both = values({**WORSE, "nll_labelmap": 0.03, "brier_labelmap": 0.01})
    write_run(tmp_path / "real" / "dsc", "tiny/kits19/dsc", both)
    write_run(tmp_path / "drawn" / "dsc", "tiny/kits19_synthetic/dsc", both)
    real, drawn = made(tmp_path / "real"), made(tmp_path / "drawn")
    kidney = functools.partial(numbers, label="kidney")
    (nll,), (compared,) = (kidney(real, metric=f"nll{end}") for end in ("", "_labelmap"))
    assert (nll.paper_mean, compared.paper_mean, compared.paper_error) == (0.05, 0.05, 0.022)
    assert np.isnan(nll.difference_in_errors)
    assert compared.difference_in_errors == pytest.approx(
        (both["nll_labelmap"].mean() - 0.05) / 0.022
    )
    (nll,), (dice,) = (kidney(drawn, metric=metric) for metric in ("nll", "dice"))
    assert np.isnan(nll.paper_mean)
    assert dice.paper_mean == 0.818
    assert np.isnan([row.difference_in_errors for row in numbers(drawn)]).all()
    assert {row.label for row in numbers(drawn)} == {"kidney", "tumour"}
    assert "SYNTHETIC INTENSITIES" in (drawn / "report.md").read_text()
    assert "SYNTHETIC" not in (real / "report.md").read_text()


def test_a_set_of_ones_own(tmp_path):
    spec = SETS["phantom"].spec
    own = spec.__class__(**{
        **vars(spec), "name": "folder_a_b", "title": "a_b & 50% <x>", "classes": ("rest", "cell|s")
    })  # fmt: skip
    for name, scored in (("dsc", DSC), ("dscpp", DSCPP)):
        write_run(tmp_path / name, f"tiny/phantom/{name}", scored, spec=own)
    folder = made(tmp_path)
    places = {(row.table, row.dataset, row.scale) for row in numbers(folder)}
    assert places == {(0, "folder_a_b", "custom")}
    text = (folder / "report.md").read_text()
    assert "## Other runs" in text
    assert "## Table 3" not in text
    assert (
        r"\textbf{a\_b \& 50\% $<$x$>$, custom scale, cell$|$s.}"
        in (folder / "tables" / "other_folder_a_b_custom.tex").read_text()
    )
    assert "a_b &amp; 50% &lt;x&gt;, custom scale" in (folder / "report.html").read_text()


def verdicts(folder):
    """Of each claim, from the page."""
    text = (folder / "report.html").read_text()
    found = re.findall(r'<p>([^<]+): <span class="verdict[^"]*">([^<]+)</span>\.</p>', text)
    return {claim: verdict for claim, verdict in found}


def test_findings_turn_with_the_numbers(tmp_path):
    write_drive(tmp_path / "better")
    write_drive(tmp_path / "worse", dsc=DSCPP, dscpp=DSC)
    better, worse = (list(verdicts(made(tmp_path / n)).values()) for n in ("better", "worse"))
    holds, fails, none = "holds", "does not hold", "no runs"
    # NLL, Brier, Dice, variants, gamma, thresholds, temperature, ensemble.
    assert better == [holds, holds, holds, none, none, holds, holds, none]
    assert worse == [fails, fails, fails, none, none, holds, fails, none]
    text = (tmp_path / "better" / "report" / "report.md").read_text()
    p = stats.ranksums(DSCPP["nll"], DSC["nll"]).pvalue
    paired = stats.wilcoxon(DSCPP["nll"], DSC["nll"]).pvalue
    assert (
        f"{DSCPP['nll'].mean():.4f} with DSC++, {DSC['nll'].mean():.4f} with DSC; "
        f"p = {p:.3g} by rank-sum, {paired:.3g} by signed-rank, 8 cases" in text
    )
    assert "recall changes by 0.800 with DSC++, by 0.300 with DSC" in text


def test_a_small_difference_is_not_significant_unless_all_cases_have_it(tmp_path):
    some, every = np.array([-1, 1, -1, 1, -1, 1, -1, 0.5]) * 1e-4, -1e-4
    for name, change in (("some", some), ("every", every)):
        nearly = {metric: of + change for metric, of in DSC.items()}
        write_drive(tmp_path / name, dscpp=nearly)
    found = {n: list(verdicts(made(tmp_path / n)).values())[:3] for n in ("some", "every")}
    assert found["some"] == ["not significant", "not significant", "holds"]
    holds, falls = "holds by the paired test alone", "falls by the paired test alone"
    assert found["every"] == [holds, holds, falls]


@pytest.mark.parametrize(
    ("brier", "verdict"),
    [
        ([6, 5, 4, 3, 4, 5, 6, 7, 8, 9], "holds"),
        ([6, 5, 4, 3, 4, 5, 6, 7, 8, 7], "holds in 2 of 3"),
        ([6, 5, 4, 3, 4, 5, 6, 7, 1, 2], "holds in 1 of 3"),
        ([6, 5, 4, 3, 4, 5, 6, 7, 8], "holds"),
    ],
)
def test_gamma(tmp_path, brier, verdict):
    for index, level in enumerate(brier):
        gamma = 0.5 + index / 2
        means = {**BETTER, "brier": level / 50, "nll": 0.5 / gamma}
        cell = values(means, seed=index)
        write_run(tmp_path / f"gamma={gamma:g}", "tiny/drive/dscpp", cell, gamma=gamma)
    folder = made(tmp_path)
    claim = next(found for claim, found in verdicts(folder).items() if "gamma" in claim)
    assert claim == verdict
    assert ("Missing: gamma = 5" in (folder / "report.md").read_text()) == (len(brier) < 10)


class Parsed(html.parser.HTMLParser):
    """Checks that tags are closed in their order, and keeps attributes and style."""

    def __init__(self, text):
        super().__init__()
        self.open, self.found, self.style = [], [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] == ["style"]:
            self.style += data


def test_the_page_needs_nothing_else(drive):
    folder = made(drive)
    page = Parsed((folder / "report.html").read_text())
    assert page.open == []
    tags = [tag for tag, _ in page.found]
    assert not {"script", "link", "iframe", "object"} & {*tags}
    assert not re.search(r"url\(|@import", page.style)
    sources = [a["src"] for _, a in page.found if "src" in a]
    assert [source.partition(",")[0] for source in sources] == ["data:image/png;base64"]
    assert {"lang": "en"} in [a for tag, a in page.found if tag == "html"]
    assert "viewport" in [a.get("name") for tag, a in page.found if tag == "meta"]
    assert [a["alt"] for tag, a in page.found if tag == "img"] == ['A "figure" & <more>']
    ids = [a["id"] for _, a in page.found if "id" in a]
    assert len({*ids}) == len(ids)
    links = [a["href"] for tag, a in page.found if tag == "a"]
    assert {"#table4", "#figures"} <= {*links}
    assert {link.removeprefix("#") for link in links} <= {*ids}
    assert r'![A "figure" & \<more>](figures/figure.png)' in (folder / "report.md").read_text()
    assert (folder / "figures" / "figure.png").exists()


def test_latex():
    table = ReportTable(
        "name",
        "50% of a_b & c#",
        "A ± B.",
        (Column("method"), Column("ours", "NLL"), Column("paper", "NLL"), Column("seed")),
        (((Cell("a_1"), Cell("0.1 ± 0.2", True), Cell("−3"), Cell("0")),),) * 2,
        ("Note {x} \\ y^2~.",),
    )
    text = markup.to_latex(table)
    assert r"\caption{\textbf{50\% of a\_b \& c\#.} A $\pm$ B.}" in text
    assert r"a\_1 & \textbf{0.1 $\pm$ 0.2} & $-$3 & 0 \\" in text
    assert r" & \multicolumn{2}{c}{NLL} &  \\" in text
    assert r"\cmidrule(lr){2-3}" in text
    assert r"Note \{x\} \textbackslash{} y\textasciicircum{}2\textasciitilde{}." in text
    assert text.count(r"\midrule") == 2
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
    assert text.count(r"\begin{") == text.count(r"\end{") == 2


def test_equal_runs_give_equal_files(drive):
    folder = made(drive)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    stale = folder / "tables" / "gone.tex"
    stale.write_text("")
    kept = folder / "notes.txt"
    kept.write_text("")
    write.write([drive], folder)
    kept.unlink()
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    names = {str(path.relative_to(folder)) for path in before}
    tests = "table4_drive_tiny_tests.tex", "table4_drive_tiny_seeds.tex"
    assert {f"tables/{name}" for name in ("table4_drive_tiny.tex", *tests)} <= names


def test_curves(drive):
    points = read_csv(made(drive) / "curves.csv", CurvePoint)
    dsc = [point for point in points if point.method == "dsc"]
    np.testing.assert_allclose([point.threshold for point in dsc], metrics.THRESHOLDS)
    tp = np.round(1000 * (0.9 - 0.3 * np.linspace(0, 1, 91)))
    np.testing.assert_allclose([point.recall for point in dsc], tp / 1000, rtol=1e-6)
    precision = tp / (tp + tp[::-1])
    np.testing.assert_allclose([point.precision for point in dsc], precision, rtol=1e-6)
    dice = 2 * tp / (tp + tp[::-1] + 1000)
    np.testing.assert_allclose([point.dice for point in dsc], dice, rtol=1e-6)
    assert {(p.method, p.seed) for p in points} >= {("dscpp", 0), ("dscpp", 1)}


def test_three_cases_are_too_few_to_judge(tmp_path):
    few = [{metric: of[:3] for metric, of in by.items()} for by in (DSC, DSCPP)]
    for name, of in zip(("dsc", "dscpp"), few, strict=True):
        write_run(tmp_path / name, f"tiny/drive/{name}", of)
    assert stats.ranksums(few[1]["nll"], few[0]["nll"]).pvalue < 0.05
    found = list(verdicts(made(tmp_path)).values())
    assert [found[claim] for claim in (0, 1, 2, 5)] == ["too few cases"] * 4


def test_means_that_rest_on_a_few_cases_say_so(tmp_path):
    dsc = values(WORSE, cases=20, seed=3)
    nll = dsc["nll"] - 0.01
    nll[0] += 1
    for name, of in (("dsc", dsc), ("dscpp", dsc | {"nll": nll})):
        write_run(tmp_path / name, f"tiny/drive/{name}", of)
    assert stats.wilcoxon(nll, dsc["nll"]).pvalue < 0.05 and nll.mean() > dsc["nll"].mean()
    text = (made(tmp_path) / "report.md").read_text()
    (line,) = (line for line in text.splitlines() if line.startswith("- DRIVE") and "NLL" in line)
    assert "**does not hold**" in line and line.endswith("most cases are the other way round.")


def test_the_seeds_that_say_the_same_are_counted(tmp_path):
    for seed, (dsc, dscpp) in enumerate([(DSC, DSCPP), (DSC, DSCPP), (DSCPP, DSC)]):
        for name, of in (("dsc", dsc), ("dscpp", dscpp)):
            write_run(tmp_path / f"{name}_{seed}", f"tiny/drive/{name}_seed={seed}", of)
    text = (made(tmp_path) / "report.md").read_text()
    assert text.count("; the same way round in 2 of 3 seeds") == 3  # NLL, Brier and Dice


def write_frontier(folder, dataset, worse, better):
    """DSC and DSC++, a rival that is worse than DSC++, one that is better, and one alike."""
    of_dataset = functools.partial(f"tiny/{dataset}/{{}}".format)
    dscpp = values(BETTER, cases=20, seed=7)
    by_cell = {
        "dscpp": dscpp,
        "dsc": {metric: of + 0.1 for metric, of in dscpp.items()},
        worse: {metric: of + 0.05 for metric, of in dscpp.items()},
        better: {metric: of - 0.02 for metric, of in dscpp.items()},
        "dsc_then_ce": dscpp,
    }
    for name, by_metric in by_cell.items():
        write_run(folder / dataset / name, of_dataset(name), by_metric)


def test_ranks_over_data_sets_and_what_differs_from_dscpp(tmp_path):
    write_frontier(tmp_path / "runs", "drive", "nacl", "dsc+l1_ace")
    write_frontier(tmp_path / "runs", "dsb2018", "dsc+l1_ace", "nacl")
    text = (made(tmp_path / "runs") / "report.md").read_text()
    ranks = text.split("**Ranks, tiny scale.**")[1].split("\n**")[0]
    lines = [line[2:-2].split(" | ") for line in ranks.splitlines() if line.startswith("| ")]
    rows = {name: cells for name, *cells in lines}
    # Everywhere 1 the better rival, 2.5 DSC++ and the equal baseline, 4 the worse rival, 5 DSC.
    position = 1 + RANKED.index("nll")
    assert rows["DSC++"][position] == "**2.5**"
    assert rows["DSC, then CE"][position] == "**2.5 ··**"
    assert rows["DSC"][position] == "5.0 ▼▼"
    assert rows["NACL"][position] == "**2.5 ▼▲**"
    assert rows["DSC + L1-ACE"][position] == "**2.5 ▲▼**"
    # Of Dice more is better.
    position = 1 + RANKED.index("dice")
    assert rows["DSC"][position] == "**1.0 ▲▲**"
    assert rows["NACL"][position] == "3.5 ▲▼"


def test_the_table_beyond_the_paper_is_there_with_runs_that_only_it_shows(tmp_path, drive):
    text = (made(drive) / "report.md").read_text()
    assert "Beyond the paper" not in text
    write_run(drive / "svls", "tiny/drive/svls", values(BETTER, seed=9))
    folder = made(drive)
    text = (folder / "report.md").read_text()
    assert "## Beyond the paper: More losses, and other means to calibrate" in text
    assert "experiments.reproduce --frontier --data=dsb2018=FOLDER --scale=tiny" in text
    assert (folder / "tables" / "frontier_ranks_tiny.tex").exists()
    of_table = {row.method for row in numbers(folder) if row.table == FRONTIER}
    assert of_table == {"dsc", "dscpp", "svls", "dsc, temperature", "dscpp, ensemble of 2"}
    (line,) = [row for row in markdown_rows(text, "DSC++, ensemble of 2") if row[-1] == "2"]
    assert line[-4:] == ["2 seeds", "6", "–", "2"]  # Epochs, minutes and evaluations.


def test_the_band_and_the_whole_split(tmp_path):
    means = {"nll_band": 0.5, "ece_band": 0.2, "nll_input": 0.15, "brier_input": 0.04}
    new = values(means | {"aurc": 0.01, "entropy_auroc": 0.9}, seed=6)
    spec = SETS["drive"].spec
    voxels = np.zeros((2, 20), int)
    voxels[:, 10] = 100
    sums = {
        f"case {n}": Reliability(voxels, 0.52 * voxels, voxels * np.array([[40], [40 + n]]) // 100)
        for n in range(CASES)
    }
    found = [LesionBin("case 0", "vessel", 18, 4, 3.6, 3, 0.5)]
    for loss, of in (("ce", DSCPP), ("dscpp", DSCPP), ("dsc", DSC)):
        write_run(tmp_path / loss, f"tiny/drive/{loss}", of)
    for loss, shift in (("dscpp", 0), ("dsc", 0.1)):
        of = {**(DSCPP if loss == "dscpp" else DSC), **{k: v + shift for k, v in new.items()}}
        write_scores(tmp_path / loss, spec, of, case_reliability=sums, lesions=found)
    folder = made(tmp_path)
    text = (folder / "report.md").read_text()
    # The run of CE is older: it shows, and is compared in, what it has.
    (band,) = numbers(folder, method="dscpp", metric="nll", region="band")
    assert band.mean == pytest.approx(new["nll_band"].mean()) and np.isnan(band.paper_mean)
    assert numbers(folder, method="ce", region="band") == []
    (aurc,) = numbers(folder, method="dsc", metric="aurc")
    assert (aurc.label, aurc.mean) == ("all", pytest.approx(new["aurc"].mean() + 0.1))
    plus, original = markdown_rows(text, "DSC++")[0], markdown_rows(text, "DSC")[0]
    for cell, name in zip(plus[-10:-8], ("nll_band", "ece_band"), strict=True):
        assert re.fullmatch(rf"\*\*{new[name].mean():.4f} ± 0\.00\d\d\*\*", cell)
    assert original[-10].startswith(f"{new['nll_band'].mean() + 0.1:.4f} ± ")
    assert markdown_rows(text, "CE")[0][-10:-8] == ["–", "–"]
    # At the network's size, beside the same numbers of the paper (Table 4).
    for row, shift, paper in ((plus, 0, "0.041 ± 0.003"), (original, 0.1, "0.204 ± 0.013")):
        mean, error = new["nll_input"].mean() + shift, float(paper[-5:])
        assert row[-8].strip("*").startswith(f"{mean:.4f} ± ") and row[-7].strip("*") == paper
        assert row[-6] == f"{(mean - float(paper[:5])) / error:+.1f} SE"
    (brier,) = numbers(folder, method="dscpp", metric="brier", region="input")
    assert (brier.mean, brier.paper_mean) == (pytest.approx(new["brier_input"].mean()), 0.024)
    rows = [flat(row) for row in read_csv(folder / "comparisons.csv", TableComparison)]
    tested = {
        pair: [(r.region, r.metric) for r in rows if (r.method_a, r.method_b) == pair]
        for pair in (("dscpp", "dsc"), ("dscpp", "ce"))
    }
    old = [("image", metric) for metric in PLOTTED]
    assert tested["dscpp", "ce"] == old
    regions = ("band", "nll"), ("band", "ece"), ("input", "nll"), ("input", "brier")
    assert tested["dscpp", "dsc"] == [*old, *regions]
    assert len(REPORTED) + len(AT_INPUT) == len(tested["dscpp", "dsc"])
    # The claims are those of the paper, of the whole image; they are judged at both sizes.
    assert f"{new['nll_band'].mean():.4f} with DSC++" not in text
    for name, title in (("nll_input", "NLL"), ("brier_input", "Brier")):
        where = f"- DRIVE, tiny scale, {title}, input size: **holds**. "
        ours, theirs = (f"{new[name].mean() + shift:.4f}" for shift in (0, 0.1))
        assert f"{where}{ours} with DSC++, {theirs} with DSC; p = " in text
    of_split = markdown_rows(text, "DSC++")[1]
    assert [cell[:6] for cell in of_split[1:3]] == [
        f"{new[n].mean():.4f}" for n in ("aurc", "entropy_auroc")
    ]
    gap = 0.52 - np.mean([40 + n for n in range(CASES)]) / 100
    assert of_split[3] == f"{gap:.4f}"
    assert re.fullmatch(r"0\.0\d{3} to 0\.\d{4}", of_split[4])
    assert of_split[5:] == ["4", "3", "0.1500", "0.1250"]
