"""Tables of scores: their files, their summaries and comparisons, against scipy and by hand."""

import itertools
import math
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dicepp_jax.rows import Comparison, Row, Summary, compare, read_csv, summarise, write_csv

NAN, INF = float("nan"), float("inf")
ROOT = Path(__file__).parents[1]
PLACES = [("vessel", "image", "nll"), ("vessel", "field of view", "nll")]
PLACES += [("all", "image", "nll_full"), ("vessel", "image", "dice")]
DICE = ("vessel", "image", "dice")


def rows_of(values):
    """Rows of `(cases, places)` values, case by case."""
    return [
        Row(f"case_{index:02}", *place, float(value))
        for index, case in enumerate(values)
        for place, value in zip(PLACES, case, strict=False)
    ]


def test_works_without_jax():
    code = "import sys, dicepp_jax.rows; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert not {"jax", "flax", "grain", "matplotlib"} & {name.split(".")[0] for name in loaded}
    ours = {name for name in loaded if name.startswith("dicepp_jax")}
    assert ours == {f"dicepp_jax{name}" for name in ("", ".atomic", ".rows", ".statistics")}


def test_summaries_have_means_errors_and_intervals_in_order_of_appearance():
    values = np.random.default_rng([2, 0]).normal(size=(40, len(PLACES)))
    values[[3, 8], 1] = NAN
    rows = rows_of(values)
    summaries = summarise(rows)
    assert [summary[:3] for summary in summaries] == PLACES
    assert [(s.cases, s.undefined) for s in summaries] == [(40, 0), (38, 2), (40, 0), (40, 0)]
    for summary, column in zip(summaries, values.T, strict=True):
        defined = column[~np.isnan(column)]
        error = defined.std() / np.sqrt(len(defined))
        assert summary.mean == pytest.approx(defined.mean())
        assert summary.error == pytest.approx(error, rel=0.05)
        interval = defined.mean() + np.array([-1.96, 1.96]) * error
        assert (summary.low, summary.high) == pytest.approx(interval, abs=0.3 * error)
    assert summarise(rows) == summaries


def test_mean_of_one_case_has_no_error_and_of_no_case_no_value():
    (one,) = summarise([Row("a", *DICE, 0.25), Row("b", *DICE, NAN)])
    np.testing.assert_equal(one, Summary(*DICE, 0.25, NAN, NAN, NAN, 1, 1))
    (none,) = summarise([Row("a", *DICE, NAN)])
    np.testing.assert_equal(none, Summary(*DICE, NAN, NAN, NAN, NAN, 0, 1))
    assert summarise([]) == []


def test_recorded_numbers_follow_from_the_recorded_rows():
    folder = ROOT / "results" / "drive_128"
    recorded = (folder / "report.txt").read_text()
    rows = {name: read_csv(folder / f"{name}.csv", Row) for name in ("dsc", "dscpp")}
    summaries = {name: summarise(of_one) for name, of_one in rows.items()}
    for summary in (s for group in summaries.values() for s in group if s.label == "vessel"):
        assert f"{summary.mean:.4f} ± {summary.error:.4f}" in recorded
    split = (line.split() for line in recorded.splitlines())
    lines = {tuple(words[:3]): words for words in split}
    for row in compare(rows["dsc"], rows["dscpp"]):
        if row[2:4] == ("vessel", "image"):
            rank_sum, signed_rank, _ = lines["vessel", "image", row.metric][-3:]
            assert rank_sum == f"{row.rank_sum:.2g}"
            assert signed_rank == f"{row.signed_rank:.2g}"


class Mine(NamedTuple):
    """A type of row that the package does not know."""

    name: str


text, number = st.text(), st.floats()
count = st.integers()
kinds = {
    Row: (text,) * 4 + (number,),
    Summary: (text,) * 3 + (number,) * 4 + (count,) * 2,
    Comparison: (text,) * 5 + (count,) * 2 + (number,) * 9,
    Mine: (text,),
}


@pytest.mark.parametrize("kind", kinds)
@given(data=st.data())
def test_what_is_written_is_read_exactly(kind, data, tmp_path_factory):
    rows = data.draw(st.lists(st.builds(kind, *kinds[kind]), min_size=1, max_size=4))
    path = tmp_path_factory.getbasetemp() / "rows.csv"
    write_csv(path, rows)
    assert repr(read_csv(path, kind)) == repr(rows)


def test_a_file_is_plain_csv(tmp_path):
    summary = Summary("vessel", "image", "dice", 0.75, 0.1, 0.5, INF, 20, 1)
    write_csv(tmp_path / "summary.csv", [summary, summary._replace(label="a, b", mean=1 / 3)])
    assert (tmp_path / "summary.csv").read_text(encoding="utf-8").splitlines() == [
        "label,region,metric,mean,error,low,high,cases,undefined",
        "vessel,image,dice,0.75,0.1,0.5,inf,20,1",
        '"a, b",image,dice,0.3333333333333333,0.1,0.5,inf,20,1',
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["summary.csv"]


class Unwritable:
    def __str__(self):
        raise RuntimeError("disk full")


def test_an_interrupted_write_does_not_replace_a_file(tmp_path):
    row = Row("a", *DICE, 0.5)
    write_csv(tmp_path / "rows.csv", [row, row])
    with pytest.raises(RuntimeError, match="disk full"):
        write_csv(tmp_path / "rows.csv", [row, row._replace(case=Unwritable())])
    assert read_csv(tmp_path / "rows.csv", Row) == [row, row]


def test_an_empty_table_is_not_written(tmp_path):
    with pytest.raises(ValueError, match=r"no rows to write to .*rows\.csv"):
        write_csv(tmp_path / "rows.csv", [])
    assert not list(tmp_path.iterdir())


HEADER = b"case,label,region,metric,value\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1: found the header '', expected that of a Row, 'case,label,region,metric,v"),
        (b"case,label,region,value\n", "line 1: found the header 'case,label,region,value', exp"),
        (b"label,case,region,metric,value\n", "line 1: found the header 'label,case,"),
        (HEADER + b"a,b,c,d,1\na,b,c,2\n", "line 3: found 4 values, expected 5"),
        (HEADER + b"a,b,c,d,1,2\n", "line 2: found 6 values, expected 5"),
        (HEADER + b'"a\n\na",b,c,d,1\na,b,c,d,x\n', "line 5: found 'x' as value, expected float"),
        (HEADER + b"a,b,c,d,\n", "line 2: found '' as value, expected float"),
        (HEADER + b"caf\xe9,b,c,d,1\n", " is not a CSV file in UTF-8: 'utf-8' codec can't"),
        (HEADER + b"a" * 200_000, " is not a CSV file in UTF-8: field larger than"),
    ],
)
def test_a_file_of_another_type_is_refused(tmp_path, content, message):
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError) as raised:
        read_csv(path, Row)
    assert str(raised.value).startswith(str(path))
    assert message in str(raised.value)


def test_a_count_is_an_integer(tmp_path):
    path = tmp_path / "summary.csv"
    write_csv(path, [Summary(*DICE, 0.5, 0.1, 0.3, 0.7, 20, 0)])
    path.write_text(path.read_text().replace("20", "20.5"))
    with pytest.raises(ValueError, match=r"line 2: found '20.5' as cases, expected int"):
        read_csv(path, Summary)


def two_methods():
    """Values of two methods, `(cases, places)`, some undefined in one or both of them."""
    rng = np.random.default_rng([3, 0])
    a = rng.normal(size=(40, len(PLACES)))
    b = a + rng.normal(0.2, 0.5, a.shape)
    a[[3, 8, 9], 1] = NAN
    b[[8, 20], 1] = NAN
    return a, b


def test_a_comparison_has_every_number_of_its_pairs():
    a, b = two_methods()
    table = compare(rows_of(a), rows_of(b), ("dsc", "dscpp"))
    assert [row[:5] for row in table] == [("dsc", "dscpp", *place) for place in PLACES]
    assert [(row.cases, row.undefined) for row in table] == [(40, 0), (36, 4), (40, 0), (40, 0)]
    for row, x, y in zip(table, a.T, b.T, strict=True):
        paired = ~np.isnan(x) & ~np.isnan(y)
        difference = (x - y)[paired]
        error = difference.std() / math.sqrt(len(difference))
        assert row.mean_a == pytest.approx(x[paired].mean())
        assert row.mean_b == pytest.approx(y[paired].mean())
        assert row.difference == pytest.approx(difference.mean())
        interval = difference.mean() + np.array([-1.96, 1.96]) * error
        assert (row.low, row.high) == pytest.approx(interval, abs=0.3 * error)
        every = (values[~np.isnan(values)] for values in (x, y))
        unpaired = stats.mannwhitneyu(*every, use_continuity=False, method="asymptotic")
        assert row.rank_sum == pytest.approx(unpaired.pvalue, rel=1e-9)
        assert row.signed_rank == pytest.approx(stats.wilcoxon(difference).pvalue, rel=1e-9)
        positive = stats.wilcoxon(difference, alternative="greater").statistic
        total = len(difference) * (len(difference) + 1) / 2
        assert row.rank_biserial == pytest.approx(2 * positive / total - 1)
    p = sorted(row.signed_rank for row in table)
    expected = itertools.accumulate((min(1, q * (4 - i)) for i, q in enumerate(p)), max)
    assert sorted(row.holm for row in table) == pytest.approx(list(expected))


def test_cases_are_matched_by_name():
    a, b = two_methods()
    first, second = rows_of(a), rows_of(b)
    table = compare(first, second)
    rng = np.random.default_rng(4)
    shuffled = [[rows[i] for i in rng.permutation(len(rows))] for rows in (first, second)]
    assert sorted(compare(*shuffled)) == sorted(table)


def test_swapping_the_methods_changes_the_sign_of_the_difference():
    a, b = map(rows_of, two_methods())
    for row, back in zip(compare(a, b), compare(b, a), strict=True):
        assert (back.mean_a, back.mean_b) == (row.mean_b, row.mean_a)
        found = (back.difference, back.low, back.high, back.rank_biserial)
        assert found == pytest.approx((-row.difference, -row.high, -row.low, -row.rank_biserial))
        same = (row.rank_sum, row.signed_rank, row.holm)
        assert (back.rank_sum, back.signed_rank, back.holm) == pytest.approx(same)


def test_equal_methods_do_not_differ():
    rows = [row for row in rows_of(two_methods()[0]) if not math.isnan(row.value)]
    for row in compare(rows, rows):
        assert row.mean_a == row.mean_b
        assert row[9:] == (0, 0, 0, 1, 1, 1, 0)


def test_metrics_without_a_defined_pair_are_undefined_and_not_counted_by_holm():
    a = np.array([[0.5, NAN], [0.75, 0.5], [0.25, NAN]])
    b = np.array([[1.0, 0.5], [0.5, NAN], [1.0, 0.75]])
    some, none = compare(rows_of(a), rows_of(b))
    assert some.holm == some.signed_rank == 0.5
    assert none[5:7] == (0, 3)
    np.testing.assert_equal(none[7:12], (NAN,) * 5)
    assert none.rank_sum == stats.ranksums([0.5], [0.5, 0.75]).pvalue
    np.testing.assert_equal(none[13:], (NAN,) * 3)


def test_infinite_values_are_compared_by_rank():
    a, b = np.array([[INF], [2.0], [INF], [1.0]]), np.array([[1.0], [-INF], [INF], [1.5]])
    (row,) = compare(rows_of(a), rows_of(b))
    assert (row.cases, row.undefined) == (3, 1)
    assert (row.mean_a, row.mean_b, row.difference) == (INF, -INF, INF)
    np.testing.assert_equal((row.low, row.high), (NAN, NAN))
    assert row.rank_biserial == pytest.approx(2 / 3)


def test_different_cases_are_refused_by_name():
    a, b = (rows_of(values[:8]) for values in two_methods())
    more = [Row("case_99", *place, 0.5) for place in PLACES]
    with pytest.raises(ValueError) as raised:
        compare(a[len(PLACES) :], b + more, ("dsc", "dscpp"))
    assert "dsc and dscpp must have the same cases" in str(raised.value)
    assert "only in dscpp: case_00, case_99. Score both" in str(raised.value)
    with pytest.raises(ValueError, match="only in dsc: case_00; only in dscpp: case_99"):
        compare(a, b[len(PLACES) :] + more, ("dsc", "dscpp"))
    with pytest.raises(ValueError, match="only in a: case_01, .*, case_05 and 2 more"):
        compare(a, b[: len(PLACES)])


def test_different_rows_are_refused_by_name():
    a, b = (rows_of(values[:8]) for values in two_methods())
    with pytest.raises(ValueError, match=r"same rows .* only in a: case_00/vessel/image/nll\."):
        compare(a, b[1:])


def test_rows_that_appear_twice_are_refused():
    a, b = (rows_of(values[:8]) for values in two_methods())
    with pytest.raises(ValueError, match="but dscpp has several rows of case_00/vessel/image/dice"):
        compare(a, [*b, b[3]._replace(value=0.1), b[3]], ("dsc", "dscpp"))
    with pytest.raises(ValueError, match="but a has several rows .* and 27 more"):
        compare(a + a, b)


def test_a_file_saved_by_a_spreadsheet(tmp_path):
    path = tmp_path / "cases.csv"
    rows = [Row("a", *DICE, 0.25)]
    write_csv(str(path), rows)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b"\r\n")
    assert read_csv(str(path), Row) == rows
