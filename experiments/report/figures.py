"""The figures of a report: the paper's, and reliability diagrams, which the paper lacks."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure as Drawing

from dicepp_jax.names import file_name
from dicepp_jax.plots import curves as curve_plots
from dicepp_jax.plots import paper_figures
from dicepp_jax.plots.views import View
from dicepp_jax.score_files import SplitScores
from experiments.report.groups import Entry, Group, method_title
from experiments.report.published import GAMMAS, LOSSES, PAIR, PLOTTED, TABLES

CASES = 2
"""Number of test cases drawn by loss."""


class ReportFigure(NamedTuple):
    """A figure of a report, not yet drawn.

    Attributes:
      name: of its file.
      title: in a few words; the picture's alternative text.
      caption: how to read it.
      draw: draws it.
      shows_cases: whether it shows images of the data set.
    """

    name: str
    title: str
    caption: str
    draw: Callable[[], Drawing]
    shows_cases: bool = False


class _Drawn(NamedTuple):
    """A run and its scores, with the cases to draw."""

    title: str
    entry: Entry
    scored: SplitScores

    def views(self, target: int) -> dict[str, View]:
        """The views of a class, by case."""
        return {views[0].case: views[target - 1] for views in self.scored.shown}


def figures(gathered: Sequence[Group]) -> Iterator[ReportFigure]:
    """The figures that runs allow.

    Args:
      gathered: of `groups.gather`.

    Yields:
      Figures, group by group; the scores of one group are read at a time.
    """
    for group in gathered:
        drawn = {
            name: _Drawn(method_title(entry.run), entry, entry.run.scores())
            for name, entry in group.entries.items()
        }
        for target, label in enumerate(group.spec.classes[1:], 1):
            yield from _of_class(group, drawn, target, label)
        yield from _reliability(group, drawn)


def _of_class(
    group: Group, drawn: Mapping[str, _Drawn], target: int, label: str
) -> Iterator[ReportFigure]:
    several = len(group.spec.classes) > 2
    end = _name(group, *([label] if several else []))
    where = f"{group.title}, {label}"
    pair = _some(drawn, PAIR)
    losses = _some(drawn, LOSSES)
    gammas = _some(drawn, GAMMAS)
    if len(pair) == len(PAIR) and (cases := _cases(pair, target)):
        yield ReportFigure(
            f"figure1_{end}",
            f"Figure 1: how sure a network is of its errors ({where})",
            "Probabilities as heat maps, and errors: false positives magenta, false negatives "
            "green. The number is the mean probability of the predicted class over these pixels.",
            functools.partial(paper_figures.overconfidence, cases[0], target, label),
            shows_cases=True,
        )
    if len(gammas) > 1 and (cases := _cases(gammas, target)):
        values = {title: float(title.split("=")[1]) for title in cases[0]}
        sums = {values[d.title]: d.scored.reliability for d in gammas.values()}
        yield ReportFigure(
            f"figure2_{end}",
            f"Figure 2: probabilities by gamma ({where})",
            "Heat maps of one test case, and under each the histogram of the probabilities of all "
            "voxels of all test cases. Gamma = 1 is the Dice loss.",
            functools.partial(
                paper_figures.by_gamma,
                {values[title]: view for title, view in cases[0].items()},
                sums,
                target,
                label,
            ),
            shows_cases=True,
        )
    if len(gammas) > 1:
        points = {
            float(name.split("=")[1]): list(d.entry.means.values()) for name, d in gammas.items()
        }
        yield ReportFigure(
            f"gamma_{end}",
            f"Metrics against gamma ({where})",
            "Means over the test cases with bootstrap 95% intervals.",
            functools.partial(curve_plots.against, points, "gamma", (label,), PLOTTED),
        )
    if len(losses) > 1 and (cases := _cases(losses, target)):
        number = 3 if group.spec.ndim == 2 else 4
        yield ReportFigure(
            f"figure{number}_{end}",
            f"Figure {number}: segmentations by loss ({where})",
            "Probabilities as heat maps, with the outline of the predicted class. Dice is that of "
            "the image or slice shown.",
            functools.partial(paper_figures.by_loss, cases[:CASES], target, label),
            shows_cases=True,
        )
    if len(pair) == len(PAIR):
        curves = {d.title: d.scored.thresholds for d in pair.values()}
        yield ReportFigure(
            f"figure5_curves_{end}",
            f"Figure 5, top: recall, precision and Dice by threshold ({where})",
            "Means over the test cases with 95% intervals.",
            functools.partial(_curves, curves, target, label),
        )
        if cases := _cases(pair, target):
            yield ReportFigure(
                f"figure5_{end}",
                f"Figure 5, bottom: errors at three thresholds ({where})",
                "False positives magenta, false negatives green.",
                functools.partial(paper_figures.called, cases[0], target, label),
                shows_cases=True,
            )


def _curves(thresholds: Mapping[str, Mapping], target: int, label: str) -> Drawing:
    curves = {title: curve_plots.threshold_summary(of, target) for title, of in thresholds.items()}
    return paper_figures.threshold_curves(curves, label)


def _reliability(group: Group, drawn: Mapping[str, _Drawn]) -> Iterator[ReportFigure]:
    variants = TABLES[6].methods
    in_paper = (*GAMMAS, *LOSSES, *variants)
    beyond = [name for name in drawn if name not in in_paper]
    for name, what, of in (
        ("losses", "by loss", (*LOSSES, *beyond)),
        ("gamma", "by gamma", GAMMAS),
        ("variants", "of variants of the Dice loss", variants),
    ):
        some = _some(drawn, of)
        if not some:
            continue
        sums = {d.title: d.scored.reliability for d in some.values()}
        intervals = {d.title: d.entry.calibration for d in some.values()}
        yield ReportFigure(
            f"reliability_{name}_{_name(group)}",
            f"Reliability {what} ({group.title})",
            "The observed frequency of the class against its predicted probability, and below it "
            "the share of voxels by predicted probability. On the grey line both agree. ECE here "
            "is over all test voxels together, with its bootstrap 95% interval over the cases; in "
            "the tables it is the mean over cases.",
            functools.partial(curve_plots.reliability_diagram, sums, group.spec.classes, intervals),
        )


def _some(drawn: Mapping[str, _Drawn], names: Sequence[str]) -> dict[str, _Drawn]:
    """The available ones, in the order of the names."""
    return {name: drawn[name] for name in names if name in drawn}


def _cases(drawn: Mapping[str, _Drawn], target: int) -> list[dict[str, View]]:
    """The cases of which all have views, each by title."""
    by_title = {d.title: d.views(target) for d in drawn.values()}
    first, *others = by_title.values()
    common = [case for case in first if all(case in other for other in others)]
    return [{title: views[case] for title, views in by_title.items()} for case in common]


def _name(group: Group, *more: str) -> str:
    """The end of the names of files."""
    return file_name("_".join((group.spec.name, group.tag, *more)))
