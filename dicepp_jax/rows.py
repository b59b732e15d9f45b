"""Scores as tables in long form, one number per row, their summaries and comparisons.

A table is a sequence of named tuples of one kind: `Row` is one number, `Summary` a mean over cases,
`Comparison` two methods side by side, `FalsePositives` what was predicted where nothing is,
`LesionBin` the confidence in connected components.
`write_csv` and `read_csv` preserve exactly any kind whose fields are str, int, float or another
such kind, whose columns then stand in its place. A text that a spreadsheet would take for a
formula gets an apostrophe in front, which reading removes. Importing this module loads NumPy and
scipy alone, so that results can be read where jax is not installed.
"""

import csv
import functools
import io
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_type_hints

import numpy as np

from dicepp_jax import statistics
from dicepp_jax.atomic import write_atomically

WHOLE_IMAGE = "image"
BAND = "band"
"""The region near the borders of objects."""
INPUT = "input"
"""The whole image at the size of the network's input, before probabilities are resized."""
ALL_CLASSES = "all"

RATER_DICE = "rater_dice"
"""The Dice of the other raters against the first, which is no score of a prediction."""

FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
"""How a text begins that a spreadsheet would run; with apostrophes in front it is one that has been
given one, or looks like it."""

# Label, region and metric; a key has the case in front.
Place = tuple[str, str, str]
Key = tuple[str, str, str, str]
Kind = TypeVar("Kind", bound=NamedTuple)


class Row(NamedTuple):
    """One number: a metric of a class in a case, over the image or a region of it."""

    case: str
    label: str
    region: str
    metric: str
    value: float


def is_of_raters(metric: str) -> bool:
    """Whether a metric is of all raters of a case, see `rater_scores`; few sets have any.

    Example:
      >>> is_of_raters("rater_ece"), is_of_raters("p_marked_by_1_of_2"), is_of_raters("ece")
      (True, True, False)
    """
    return metric.startswith(("rater_", "p_marked_by_"))


def of_raters(rows: Sequence["Row"]) -> list["Row"]:
    """The rows of all raters, and the Dice of the same cases against the first rater.

    Args:
      rows: scores of any number of cases.

    Returns:
      Those of the cases with several raters.
    """
    cases = {row.case for row in rows if row.metric == RATER_DICE}
    metrics = {"dice", *(row.metric for row in rows if is_of_raters(row.metric))}
    return [row for row in rows if row.case in cases and row.metric in metrics]


class FalsePositives(NamedTuple):
    """What was predicted in a case without foreground.

    Attributes:
      case: its name.
      label: a class of the foreground.
      voxels: number of voxels for which it is the most probable class.
      components: number of parts that these form; voxels that share a face are connected.
    """

    case: str
    label: str
    voxels: int
    components: int


class LesionBin(NamedTuple):
    """Sums over the predicted lesions of a class in a case whose confidence falls in a bin.

    A predicted lesion is a connected component of the voxels for which the class is the most
    probable one; voxels that share a face are connected.

    Attributes:
      case: its name.
      label: a class of the foreground.
      bin: its number, from 0; all bins have the same width.
      lesions: number of predicted lesions.
      confidence: sum over them of the mean probability of the class in each.
      correct: number of them that have a voxel of the class in the truth.
      squares: sum over them of (confidence - correct)**2.
    """

    case: str
    label: str
    bin: int
    lesions: int
    confidence: float
    correct: int
    squares: float


class Summary(NamedTuple):
    """A metric of a class over the cases of a split.

    Attributes:
      label: the class.
      region: the image or a region of it.
      metric: its name.
      mean: mean over the cases where it is defined.
      error: bootstrap standard error of the mean.
      low: lower end of the bootstrap 95% interval of the mean.
      high: upper end of that interval.
      cases: number of cases where it is defined.
      undefined: number of cases where it is not.
    """

    label: str
    region: str
    metric: str
    mean: float
    error: float
    low: float
    high: float
    cases: int
    undefined: int


class Comparison(NamedTuple):
    """A metric of a class, compared between two methods on the same cases.

    Attributes:
      method_a: name of the first method.
      method_b: name of the second method.
      label: the class.
      region: the image or a region of it.
      metric: its name.
      cases: number of pairs, the cases where it is defined for both methods.
      undefined: number of other cases.
      mean_a: mean of the first method over the pairs.
      mean_b: mean of the second method over the pairs.
      difference: mean of a - b over the pairs.
      low: lower end of the bootstrap 95% interval of the difference, over the pairs.
      high: upper end of that interval.
      rank_sum: p-value of the rank-sum test, over the cases where each method is defined.
      signed_rank: p-value of the signed-rank test, over the pairs.
      holm: p-value of the signed-rank test, adjusted by Holm's method for the number of rows in
        the table that `compare` returned.
      rank_biserial: matched-pairs rank-biserial correlation, over the pairs; positive where a is
        larger.
    """

    method_a: str
    method_b: str
    label: str
    region: str
    metric: str
    cases: int
    undefined: int
    mean_a: float
    mean_b: float
    difference: float
    low: float
    high: float
    rank_sum: float
    signed_rank: float
    holm: float
    rank_biserial: float


def column_of(row: Row | Summary | Comparison) -> str:
    """The metric's name, with that of a region of the image: "nll", "nll_band".

    Example:
      >>> column_of(Row("p", "vessel", "band", "nll", 0.3))
      'nll_band'
    """
    return row.metric if row.region == WHOLE_IMAGE else f"{row.metric}_{row.region}"


def summarise(rows: Sequence[Row]) -> list[Summary]:
    """Mean, bootstrap standard error and 95% interval over cases of every class, region and metric.

    Args:
      rows: scores of any number of cases.

    Returns:
      One `Summary` for each class, region and metric, in the order they first appear.

    Example:
      >>> place = ("vessel", "image", "dice")
      >>> summary, = summarise([Row("a", *place, 0.5), Row("b", *place, 0.7)])
      >>> print(round(summary.mean, 3), summary.cases)
      0.6 2
    """
    groups: dict[Place, list[float]] = {}
    for row in rows:
        groups.setdefault(row[1:4], []).append(row.value)
    return [_summary(place, np.array(group)) for place, group in groups.items()]


def _summary(place: Place, values: np.ndarray) -> Summary:
    undefined = int(np.isnan(values).sum())
    mean, error, low, high = map(float, statistics.bootstrap(values))
    return Summary(*place, mean, error, low, high, len(values) - undefined, undefined)


def compare(
    a: Sequence[Row], b: Sequence[Row], names: tuple[str, str] = ("a", "b")
) -> list[Comparison]:
    """Compare two methods, scored on the same cases, for every class, region and metric.

    Cases are matched by name, in any order. The more rows the result has, the stricter Holm's
    adjustment is for each, so pass only the rows of interest, such as those of the foreground.

    Args:
      a: every row of the first method.
      b: every row of the second method.
      names: names of the methods, for the table and for error messages.

    Returns:
      One `Comparison` for each class, region and metric, in the order they first appear in a.

    Raises:
      ValueError: if a number appears twice in a or in b, or in only one of them. Methods scored on
        different cases are not comparable, and a mean over the cases they share would hide it.

    Example:
      >>> place = ("vessel", "image", "dice")
      >>> a = [Row(case, *place, value) for case, value in zip("pqrs", (0.9, 0.8, 0.6, 0.9))]
      >>> b = [Row(case, *place, value) for case, value in zip("pqrs", (0.7, 0.7, 0.7, 0.5))]
      >>> row, = compare(a, b, ("dscpp", "dsc"))
      >>> print(round(row.difference, 3), round(row.rank_biserial, 3), row.signed_rank)
      0.15 0.8 0.25
    """
    values_a, values_b = (_by_key(rows, name) for rows, name in zip((a, b), names, strict=True))
    _check_same(values_a.keys(), values_b.keys(), names)
    places: dict[Place, list[Key]] = {}
    for key in values_a:
        places.setdefault(key[1:], []).append(key)
    table = []
    for place, keys in places.items():
        pairs = np.array([(values_a[key], values_b[key]) for key in sorted(keys)])
        table.append(_comparison(names, place, *pairs.T))
    adjusted = statistics.holm(np.array([row.signed_rank for row in table]))
    return [row._replace(holm=float(p)) for row, p in zip(table, adjusted, strict=True)]


def _by_key(rows: Sequence[Row], name: str) -> dict[Key, float]:
    several = {key for key, number in Counter(row[:4] for row in rows).items() if number > 1}
    if several:
        raise ValueError(
            f"every (case, label, region, metric) must appear once, but {name} has several rows of "
            f"{_listed(several)}. Give the rows of one run."
        )
    return {row[:4]: row.value for row in rows}


def _check_same(a: Collection[Key], b: Collection[Key], names: tuple[str, str]) -> None:
    for what, end in (("cases", 1), ("rows", 4)):
        in_a, in_b = ({key[:end] for key in keys} for keys in (a, b))
        only = [
            f"only in {name}: {_listed(keys)}"
            for name, keys in zip(names, (in_a - in_b, in_b - in_a), strict=True)
            if keys
        ]
        if only:
            raise ValueError(
                f"{names[0]} and {names[1]} must have the same {what} to be compared, but these "
                f"are {'; '.join(only)}. Score both methods on one test split, by the same metrics."
            )


def _listed(keys: Collection[tuple[str, ...]], most: int = 5) -> str:
    shown = ", ".join("/".join(key) for key in sorted(keys)[:most])
    return f"{shown} and {len(keys) - most} more" if len(keys) > most else shown


def _comparison(names: tuple[str, str], place: Place, a: np.ndarray, b: np.ndarray) -> Comparison:
    with np.errstate(invalid="ignore"):
        differences = a - b
        paired = ~np.isnan(differences)
        mean_a, mean_b = (float(x[paired].mean()) if paired.any() else np.nan for x in (a, b))
    difference, _, low, high = map(float, statistics.bootstrap(differences))
    return Comparison(
        *names,
        *place,
        cases=int(paired.sum()),
        undefined=int((~paired).sum()),
        mean_a=mean_a,
        mean_b=mean_b,
        difference=difference,
        low=low,
        high=high,
        rank_sum=statistics.rank_sum(a, b),
        signed_rank=statistics.signed_rank(a, b),
        holm=np.nan,
        rank_biserial=statistics.rank_biserial(a, b),
    )


def write_csv(
    path: str | Path, rows: Sequence[NamedTuple], kind: type[NamedTuple] | None = None
) -> None:
    """Write named tuples of one type as CSV with a header; the file is never left incomplete.

    Args:
      path: path of the file, which is replaced if it exists.
      rows: at least one row, unless their type is given.
      kind: the type of the rows, whose field names make the header; None for that of the first.

    Raises:
      ValueError: if there are neither rows nor their type.
    """
    if not rows and kind is None:
        raise ValueError(f"there are no rows to write to {path}; the first one gives the header")

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(_columns(kind or type(rows[0])))
            writer.writerows(map(_flat, rows))

    write_atomically(Path(path), write)


@functools.cache
def _fields(kind: Callable[..., Any]) -> dict[str, Any]:
    """The fields of a named tuple by name; those that are tuples are nested kinds."""
    return get_type_hints(kind)


def _columns(kind: type) -> list[str]:
    """The names of all columns, those of nested kinds in their place."""
    return [
        column
        for name, of in _fields(kind).items()
        for column in (_columns(of) if issubclass(of, tuple) else [name])
    ]


def _flat(row: tuple) -> Iterator[Any]:
    for value in row:
        if isinstance(value, tuple):
            yield from _flat(value)
        else:
            yield f"'{value}" if isinstance(value, str) and FORMULA.match(value) else value


def read_csv(path: str | Path, kind: type[Kind]) -> list[Kind]:
    """Read a file written by `write_csv`.

    Args:
      path: path of the file.
      kind: the named tuple type of its rows: `Row`, `Summary`, `Comparison` or one of your own.

    Returns:
      The rows, equal to those written.

    Raises:
      ValueError: if the file is not of this type; the message names the offending line.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     write_csv(Path(folder) / "cases.csv", [Row("p", "vessel", "image", "dice", 0.9)])
      ...     read_csv(Path(folder) / "cases.csv", Row)
      [Row(case='p', label='vessel', region='image', metric='dice', value=0.9)]
    """
    try:
        # Spreadsheets may put a byte order mark at the start of a file they save.
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            text = file.read()
        reader = csv.reader(io.StringIO(text, newline=""))
        header = next(reader, [])
        lines = [(reader.line_num, line) for line in reader if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a CSV file in UTF-8: {error}") from error
    columns = _columns(kind)
    if header != columns:
        raise ValueError(
            f"{path}, line 1: found the header {','.join(header)!r}, expected that of a "
            f"{kind.__name__}, {','.join(columns)!r}"
        )
    if not text.endswith(("\n", "\r")):
        raise ValueError(f"{path} ends in the middle of line {reader.line_num}: it was cut off")
    rows = []
    for number, line in lines:
        place = f"{path}, line {number}"
        if len(line) != len(columns):
            raise ValueError(f"{place}: found {len(line)} values, expected {len(columns)}")
        rows.append(_parsed(iter(line), kind, place))
    return rows


def _parsed(texts: Iterator[str], kind: Callable[..., Any], place: str) -> Any:
    """A row of a kind from as many texts as it has columns."""
    values: list[Any] = []
    for name, of in _fields(kind).items():
        if issubclass(of, tuple):
            values.append(_parsed(texts, of, place))
            continue
        text = next(texts)
        if of is str and text.startswith("'") and FORMULA.match(text):
            text = text[1:]
        try:
            values.append(of(text))
        except ValueError:
            raise ValueError(f"{place}: found {text!r} as {name}, expected {of.__name__}") from None
    return kind(*values)
