"""One data set at several scales: the claims at each, and what is drawn against size."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import test_report as made_by_hand
from scipy import stats

from dicepp_jax import score_files
from dicepp_jax.data import SETS
from dicepp_jax.rows import Row
from experiments.report import findings, groups, sizes, table_numbers, write
from experiments.report.published import published
from experiments.workdirs import finished

LOWER = made_by_hand.values(made_by_hand.BETTER, seed=1)
HIGHER = made_by_hand.values(made_by_hand.WORSE, seed=2)
VESSEL = SETS["drive"].spec.classes[1]


def write_pair(folder, scale, dsc=HIGHER, dscpp=LOWER, dataset="drive"):
    for loss, means in (("dsc", dsc), ("dscpp", dscpp)):
        made_by_hand.write_run(folder / scale / loss, f"{scale}/{dataset}/{loss}", means)


def gathered(folder):
    return groups.gather(finished.find([folder]))


def claims(folder):
    """The rows of the table of claims, by the scale in the head, and the heads."""
    of = gathered(folder)
    tables = sizes.claims_table(findings.findings(table_numbers.divide(of)), of)
    return [
        dict(zip((c.name for c in table.columns), (cell.text for cell in row), strict=True))
        for table in tables
        for block in table.blocks
        for row in block
    ]


def test_the_claims_of_each_scale_stand_side_by_side(tmp_path):
    write_pair(tmp_path, "128x8", dsc=LOWER, dscpp=HIGHER)
    write_pair(tmp_path, "256x8")
    nll = next(row for row in claims(tmp_path) if row["methods"] == "NLL: DSC++, DSC")
    assert list(nll) == [
        "methods", "data", "256 x 256 with 8 filters", "128 x 128 with 8 filters"
    ]  # fmt: skip
    assert nll["data"] == "DRIVE"
    a, b = LOWER["nll"], HIGHER["nll"]
    signed = stats.wilcoxon(a, b).pvalue
    assert nll["256 x 256 with 8 filters"].startswith(f"holds: {a.mean():.4f}, {b.mean():.4f}; p ")
    assert nll["256 x 256 with 8 filters"].endswith(f", {signed:.3g}; r −1.00")
    assert nll["128 x 128 with 8 filters"].startswith(f"does not hold: {b.mean():.4f}, ")
    assert nll["128 x 128 with 8 filters"].endswith("; r +1.00")


def test_a_claim_has_no_verdict_where_there_are_no_runs(tmp_path):
    write_pair(tmp_path, "128x8")
    write_pair(tmp_path, "256x8")
    for loss, means in (("tversky", HIGHER), ("tverskypp", LOWER)):
        made_by_hand.write_run(tmp_path / loss, f"128x8/drive/{loss}", means)
    (row,) = (r for r in claims(tmp_path) if r["methods"] == "NLL: Tversky++, Tversky")
    assert row["256 x 256 with 8 filters"] == ""
    assert row["128 x 128 with 8 filters"].startswith("holds: ")


def test_one_scale_needs_no_such_table(tmp_path):
    write_pair(tmp_path, "128x8")
    assert claims(tmp_path) == [] and list(sizes.size_figures(gathered(tmp_path))) == []


def test_volumes_are_not_asked_for_at_a_scale_of_images(tmp_path):
    write_pair(tmp_path, "128x8")
    write.write([tmp_path], tmp_path / "report", "none")
    text = (tmp_path / "report/report.md").read_text()
    assert "--table=5 --data=kits19=FOLDER --scale=full" in text
    assert "--table=4 --data=dsb2018=FOLDER --scale=128x8" in text


@pytest.fixture
def grid(tmp_path):
    """Three sides with 32 filters, of which one is the paper's, and two networks at one side."""
    for scale in ("full", "256x32", "128x32", "128x8"):
        write_pair(tmp_path, scale)
    # Another schedule has no place among them.
    write_pair(tmp_path, "reduced")
    return tmp_path


def test_the_figure_shows_the_means_and_the_papers(grid):
    (figure,) = sizes.size_figures(gathered(grid))
    assert figure.name == f"sizes_drive_{VESSEL}" and not figure.shows_cases
    drawing = figure.draw()
    axes = np.array(drawing.axes).reshape(len(sizes.METRICS), 2)
    for metric, axis in zip(sizes.METRICS, axes[:, 0], strict=True):
        lines = {line.get_label(): line for line in axis.get_lines()}
        means = [container[0] for container in axis.containers]
        ys = [line.get_ydata() for line in means]
        np.testing.assert_allclose(ys, [[m[metric].mean()] * 3 for m in (HIGHER, LOWER)])
        assert means[0].get_xdata().tolist() == [128, 256, 512]
        paper = {
            cell.method: cell.mean
            for cell in published()
            if cell[:3] == (4, "drive", VESSEL) and cell.metric == metric
        }
        for method, title in (("dsc", "DSC"), ("dscpp", "DSC++")):
            if method in paper:
                (point,) = lines[f"{title}, paper"].get_xydata()
                assert point.tolist() == [512, paper[method]]
    # One size varies at a time.
    assert [axis.get_xlabel() for axis in axes[-1]] == [
        "side of the images, pixels; 32 filters",
        "filters; images of 128 x 128",
    ]
    assert all(c[0].get_xdata().tolist() == [8, 32] for c in axes[0, 1].containers)
    filters = [line for line in axes[0, 1].get_lines() if line.get_label() == "DSC, paper"]
    assert [line.get_xdata().tolist() for line in filters] == [[32]]
    plt.close(drawing)


def test_the_truth_at_each_size_is_in_table_and_figure(grid):
    for number, scale in enumerate(("full", "256x32", "128x32")):
        folder = grid / scale / "dsc"
        scored = score_files.read(folder, SETS["drive"].spec.classes)
        cases = scored.thresholds
        truth = [Row(case, VESSEL, "image", "dice", 0.9 - 0.1 * number) for case in cases]
        score_files.write(folder, scored._replace(truth=truth), SETS["drive"].spec.classes)
    of = gathered(grid)
    (figure,) = sizes.size_figures(of)
    drawing = figure.draw()
    dice = drawing.axes[2 * sizes.METRICS.index("dice")]
    (truth,) = (c for c in dice.containers if c.get_label() == table_numbers.TRUTH)
    np.testing.assert_allclose(truth[0].get_ydata(), [0.7, 0.8, 0.9])
    plt.close(drawing)
    report = grid / "report"
    write.write([grid], report, "none")
    rows = made_by_hand.numbers(report, method=table_numbers.TRUTH)
    found = {row.scale: row.mean for row in rows if row.table == 4}
    assert found == pytest.approx({"full": 0.9, "256x32": 0.8, "128x32": 0.7})
    text = (report / "report.md").read_text()
    shown = made_by_hand.markdown_rows(text, table_numbers.TRUTH)
    assert [[cell for cell in row[1:] if cell] for row in shown[:3]] == [
        ["0.9000 ± 0.0000"], ["0.8000 ± 0.0000"], ["0.7000 ± 0.0000"]
    ]  # fmt: skip
    assert not any("**" in cell for row in shown for cell in row)
