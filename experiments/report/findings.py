"""The claims of the paper, judged by the numbers of the available runs."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from dicepp_jax.rows import Comparison, column_of
from experiments.report.groups import loss_title, method_title, repetition
from experiments.report.published import GAMMAS, PAIR, TABLES
from experiments.report.table_numbers import METRIC_TITLES, OTHER, Part, labels
from experiments.report.tables import p_text, signed
from experiments.workdirs.derived import ENSEMBLE, TEMPERATURE

HOLDS, FAILS, OPEN, NO_RUNS = "holds", "does not hold", "not significant", "no runs"
PAIRED, FALLS = "holds by the paired test alone", "falls by the paired test alone"
FEW = "too few cases"
"""The verdicts on a claim."""

SIGNIFICANT = 0.05
"""The level of p-values, unadjusted as in the paper."""

FEWEST = 4
"""The exact p-value of a rank-sum of 3 cases against 3 is at least 0.1; the normal approximation,
which the paper uses, can give 0.0495."""

BEST_GAMMAS = ("gamma=2", "gamma=2.5")


class Judgement(NamedTuple):
    """The verdict of one group of runs on a claim.

    Attributes:
      part: of the group.
      label: the class.
      metric: its title, "" for none.
      methods: that are compared, in words.
      verdict: one of `HOLDS`, `PAIRED`, `OPEN`, `FALLS`, `FAILS`, `FEW`, `NO_RUNS`.
      numbers: that it rests on.
      brief: the same for a cell of a table.
    """

    part: Part
    label: str
    metric: str
    methods: str
    verdict: str
    numbers: str
    brief: str

    @property
    def where(self) -> str:
        """The group, the class and the metric."""
        return ", ".join(filter(None, (self.part.group.title, self._class, self.metric)))

    @property
    def dataset(self) -> str:
        """The data set and the class."""
        return ", ".join(filter(None, (self.part.group.spec.title, self._class)))

    @property
    def scale(self) -> str:
        """As of `Group.tag`."""
        return self.part.group.tag

    @property
    def what(self) -> str:
        """The metric and the methods."""
        return ": ".join(filter(None, (self.metric, self.methods)))

    @property
    def _class(self) -> str:
        return self.label if labels(self.part)[1:] else ""


class Finding(NamedTuple):
    """A claim of the paper.

    Attributes:
      claim: in a sentence.
      judged: one judgement of each group of runs that can judge it.
    """

    claim: str
    judged: tuple[Judgement, ...]

    @property
    def verdict(self) -> str:
        """The verdict of all groups together."""
        given = [judged.verdict for judged in self.judged]
        verdicts = [verdict for verdict in given if verdict not in (FEW, NO_RUNS)]
        if not verdicts:
            return FEW if FEW in given else NO_RUNS
        if len({*verdicts}) == 1:
            return verdicts[0]
        counted = f"{HOLDS} in {verdicts.count(HOLDS)} of {len(verdicts)}"
        paired = verdicts.count(PAIRED)
        return f"{counted}, in {paired} more by the paired test alone" if paired else counted


def findings(parts: Sequence[Part]) -> list[Finding]:
    """Every claim, judged.

    Args:
      parts: of `table_numbers.divide`.

    Returns:
      A `Finding` for each claim, in a fixed order.
    """
    losses = [part for part in parts if part.number in (4, 5, OTHER)]
    grids = [part for part in parts if part.number == 3]
    variants = [part for part in parts if part.number in (6, OTHER)]
    pair = [("dscpp", "dsc")]
    of_variants = list(TABLES[6].pairs)
    return [
        Finding("The NLL of DSC++ is below that of DSC", _lower(losses, pair, "nll")),
        Finding("The Brier score of DSC++ is below that of DSC", _lower(losses, pair, "brier")),
        Finding(
            "The Dice of DSC++ does not fall significantly below that of DSC",
            tuple(_judged(part, c, not_worse(c)) for part, c in _chosen(losses, pair, ("dice",))),
        ),
        Finding(
            "NLL and Brier score of the ++ variants are below those of their originals",
            _lower(variants, of_variants, "nll", "brier"),
        ),
        Finding(
            "NLL falls from gamma = 1 to gamma = 2; the Brier score is lowest at 2 to 2.5 and "
            "rises above",
            tuple(judged for part in grids for judged in _grid(part)),
        ),
        Finding(
            "Thresholds of DSC++ reach a wider range of recall and of precision than those of DSC",
            tuple(judged for part in losses for judged in _ranges(part)),
        ),
        *(
            Finding(
                f"DSC++ is better calibrated than {of} (not a claim of the paper)",
                tuple(_beyond(losses, kind)),
            )
            for kind, of in (
                (TEMPERATURE, "DSC after temperature scaling"),
                (ENSEMBLE, "a deep ensemble of DSC"),
            )
        ),
    ]


def _chosen(
    parts: Sequence[Part], pairs: Sequence[tuple[str, str]], metrics: Sequence[str]
) -> Iterator[tuple[Part, Comparison]]:
    for part in parts:
        for c in part.compared:
            if (c.method_a, c.method_b) in pairs and column_of(c) in metrics:
                yield part, c


def _lower(
    parts: Sequence[Part], pairs: Sequence[tuple[str, str]], *metrics: str
) -> tuple[Judgement, ...]:
    """Whether metrics of the first methods of pairs are lower, also at the size of the input."""
    columns = (*metrics, *(f"{metric}_input" for metric in metrics))
    return tuple(_judged(part, c, below(c)) for part, c in _chosen(parts, pairs, columns))


def below(c: Comparison) -> str:
    """Whether the first method is lower, by the paper's rank-sum test or else the signed-rank test.

    The rank-sum test ignores that both methods saw the same cases, and has little power where cases
    differ much from each other.
    """
    if c.cases < FEWEST:
        return FEW
    if c.difference < 0:
        tests = {HOLDS: c.rank_sum, PAIRED: c.signed_rank}
        return next((verdict for verdict, p in tests.items() if p < SIGNIFICANT), OPEN)
    return OPEN if math.isnan(c.difference) else FAILS


def not_worse(c: Comparison) -> str:
    """Whether the first method is not lower by either test."""
    if math.isnan(c.difference) and c.cases >= FEWEST:
        return OPEN
    return {HOLDS: FAILS, PAIRED: FALLS, FEW: FEW}.get(below(c), HOLDS)


def _beyond(parts: Sequence[Part], kind: str) -> Iterator[Judgement]:
    for part in parts:
        for c in part.compared:
            if c.method_a.startswith(f"dsc, {kind}") and column_of(c) in ("nll", "brier", "ece"):
                yield _judged(part, _swapped(c), below(_swapped(c)))


def _swapped(c: Comparison) -> Comparison:
    """The same pair in the other order, as far as verdicts need it."""
    return c._replace(
        method_a=c.method_b,
        method_b=c.method_a,
        mean_a=c.mean_b,
        mean_b=c.mean_a,
        difference=-c.difference,
        rank_biserial=-c.rank_biserial,
    )


def _judged(part: Part, c: Comparison, verdict: str) -> Judgement:
    a, b = (method_title(part.group.entries[name].run) for name in (c.method_a, c.method_b))
    tests, seeds = (p_text(c.rank_sum), p_text(c.signed_rank)), _seeds(part, c)
    most = "most cases are the other way round" if _is_of_a_few(c) else ""
    numbers = (
        f"{c.mean_a:.4f} with {a}, {c.mean_b:.4f} with {b}; p = {tests[0]} by rank-sum, "
        f"{tests[1]} by signed-rank, {c.cases} cases"
    )
    brief = (
        f"{c.mean_a:.4f}, {c.mean_b:.4f}; p {tests[0]}, {tests[1]}; r {signed(c.rank_biserial, 2)}"
    )
    return Judgement(
        part,
        c.label,
        METRIC_TITLES[column_of(c)],
        f"{_general(part, c.method_a)}, {_general(part, c.method_b)}",
        verdict,
        "; ".join(filter(None, (numbers, most, seeds and f"the same way round in {seeds}"))),
        "; ".join(filter(None, (brief, most, seeds))),
    )


def _is_of_a_few(c: Comparison) -> bool:
    """Whether the means differ the other way round than the paired test, by a few cases."""
    return c.difference * c.rank_biserial < 0 and c.signed_rank < SIGNIFICANT


def _general(part: Part, name: str) -> str:
    """The title of a method without what was fitted in one run."""
    run = part.group.entries[name].run
    return ", ".join([loss_title(run.loss), *([run.kind] if run.kind else [])])


def _seeds(part: Part, c: Comparison) -> str:
    """In how many of the seeds or folds of both methods the difference has the same sign."""
    means = [
        {
            repetition(e.run): e.means[c.label, column_of(c)].mean
            for e in part.group.seeds.get(name, ())
        }
        for name in (c.method_a, c.method_b)
    ]
    both = means[0].keys() & means[1].keys()
    if len(both) < 2:
        return ""
    same = sum((means[0][key] - means[1][key]) * c.difference > 0 for key in both)
    what = "seeds" if all(fold < 0 for fold, _ in both) else "folds"
    return f"{same} of {len(both)} {what}"


def _grid(part: Part) -> Iterator[Judgement]:
    for label in labels(part):
        for _, c in _chosen([part], [("gamma=2", "gamma=1")], ("nll",)):
            if c.label == label:
                yield _judged(part, c, below(c))
        place = part, label, METRIC_TITLES["brier"]
        gone = [gamma for gamma in GAMMAS if gamma not in part.group.entries]
        if gone:
            missing = f"Missing: {', '.join(map(loss_title, gone))}"
            yield Judgement(*place, "all gamma", NO_RUNS, missing, f"{len(gone)} missing")
            continue
        means = [part.group.entries[gamma].means[label, "brier"].mean for gamma in GAMMAS]
        best = GAMMAS[int(np.argmin(means))]
        verdict = HOLDS if best in BEST_GAMMAS else FAILS
        lowest = f"{loss_title(best)}, {min(means):.4f}"
        yield Judgement(*place, "lowest at", verdict, f"Lowest at {lowest}", lowest)
        above = means[GAMMAS.index(BEST_GAMMAS[-1]) :]
        verdict = HOLDS if (np.diff(above) > 0).all() else FAILS
        rising = f"From gamma = 2.5 to 5: {', '.join(f'{mean:.4f}' for mean in above)}"
        ends = f"{above[0]:.4f} to {above[-1]:.4f}"
        yield Judgement(*place, "gamma = 2.5 to 5", verdict, rising, ends)


def _ranges(part: Part) -> Iterator[Judgement]:
    entries = part.group.entries
    if not {*PAIR} <= {*part.methods} & {*entries}:
        return
    curves = "recall", "precision"
    for label in labels(part):
        ranges = {
            curve: [_range(entries[name].curves[label, curve]) for name in ("dscpp", "dsc")]
            for curve in curves
        }
        wider = all(ours > theirs for ours, theirs in ranges.values())
        few = entries["dscpp"].means[label, "nll"].cases < FEWEST
        yield Judgement(
            part,
            label,
            "",
            "thresholds: DSC++, DSC",
            FEW if few else HOLDS if wider else FAILS,
            "Between T = 0.05 and 0.95 "
            + "; ".join(
                f"{curve} changes by {ours:.3f} with DSC++, by {theirs:.3f} with DSC"
                for curve, (ours, theirs) in ranges.items()
            ),
            "; ".join(
                f"{name} {ours:.2f}, {theirs:.2f}" for name, (ours, theirs) in ranges.items()
            ),
        )


def _range(values: np.ndarray) -> float:
    """The range of the values that are defined."""
    defined = values[~np.isnan(values)]
    return float(np.ptp(defined)) if len(defined) else math.nan
