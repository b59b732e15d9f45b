"""The evaluation of a trained grid: members, the ensembles of seeds, and the report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from dicepp_jax import inference
from dicepp_jax.atomic import write_text
from dicepp_jax.plots import canvas, curves
from dicepp_jax.rows import Row, Summary, summarise, write_csv
from dicepp_jax.score_files import score_split
from dicepp_jax.text_table import grid_table, truth_text
from dicepp_jax.wording import by
from experiments.report.published import PLOTTED, REPORTED, published
from experiments.setup.components import Components
from experiments.training.grid_points import FIELDS, Point
from experiments.training.single import best_predictor
from experiments.workdirs import derived, directory, log


def evaluate_and_report(
    config: ConfigDict,
    points: Mapping[str, Point],
    built: Mapping[str, Components],
    workdir: Path,
    diverged: Mapping[str, str],
) -> str:
    """Evaluate every member and every ensemble, and write scores, figure and report.

    Args:
      config: of the grid.
      points: of the grid, by name.
      built: components of its members, by name.
      workdir: the grid's directory.
      diverged: why members diverged, by name.

    Returns:
      The report.
    """
    first = next(iter(built.values()))
    cases, figures = first.splits[first.scored_part], config.evaluation.figures
    rows: dict[str, list[Row]] = {}
    truth: Sequence[Row] = ()
    for name, point in points.items():
        scored, predicts, trained = [], [], []
        for member, member_config in point.members.items():
            folder = workdir / member
            if log.read(folder):
                predict = best_predictor(member_config, built[member], folder, member)
                predicts.append(predict)
                trained.append(member)
                scores = score_split(
                    predict, cases, first.spec, folder, size=first.size, figures=figures
                )
                scored.append(scores.rows)
                truth = scores.truth
        if scored:
            all_of_them = len(scored) == len(point.members)
            some = "" if all_of_them else f", {len(scored)} of {len(point.members)} seeds"
            rows[name + some] = _mean_rows(scored)
        if len(predicts) > 1:
            folder = workdir / f"{name}_ensemble"
            ensemble = inference.ensemble(predicts)
            scores = score_split(
                ensemble, cases, first.spec, folder, size=first.size, figures=figures
            )
            of = [workdir / member for member in point.members if member in trained]
            derived.write(folder, derived.ENSEMBLE, of, evaluations=len(of))
            rows[f"{name}, ensemble"] = scores.rows
    summaries = {name: summarise(of) for name, of in rows.items()}
    if summaries:
        write_csv(
            workdir / "results.csv",
            [Result(name, summary) for name, group in summaries.items() for summary in group],
        )
    foreground = first.spec.classes[1:]
    beside = _published(config, first.spec.name)
    lines = [_title(config, points, first, rows)]
    for label in foreground if summaries else ():
        lines += ["", label, grid_table(summaries, label, REPORTED, beside)]
    lines[-1] += truth_text(truth)
    epochs = {name: len(log.read(workdir / name)) for name in built}
    lines += ["", f"epochs trained: {', '.join(f'{name} {n}' for name, n in epochs.items())}"]
    lines += [f"{name} diverged: {why}" for name, why in diverged.items()]
    text = "\n".join(lines)
    axes = [axis for axis in FIELDS if config.sweep[axis]]
    if len(axes) == 1 and summaries:
        by_value = {
            point.values[axes[0]]: summaries[name]
            for name, point in points.items()
            if name in summaries
        }
        figure = curves.against(by_value, axes[0], foreground, PLOTTED)
        canvas.save(figure, workdir / "figures" / f"{axes[0]}.png")
    write_text(workdir / directory.REPORT, text + "\n")
    return text


class Result(NamedTuple):
    """A summary of a point of the grid, or of an ensemble; a row of `results.csv`.

    Attributes:
      setting: the name of the point.
      summary: its `Summary`.
    """

    setting: str
    summary: Summary


def _mean_rows(of_seeds: Sequence[Sequence[Row]]) -> list[Row]:
    """The mean over seeds, case by case."""
    return [
        same[0]._replace(value=float(np.mean([row.value for row in same])))
        for same in zip(*of_seeds, strict=True)
    ]


def _published(config: ConfigDict, dataset: str) -> dict[tuple[str, str, str], str]:
    """The paper's numbers for points of the grid, by point, label and metric."""
    if config.loss.name != "dscpp":
        return {}
    return {
        (cell.method, cell.label, cell.metric): f"{cell.mean:.3f} ± {cell.error:.3f}"
        for cell in published()
        if cell.table == 3 and cell.dataset == dataset
    }


def _title(
    config: ConfigDict,
    points: Mapping[str, Point],
    built: Components,
    rows: Mapping[str, Sequence[Row]],
) -> str:
    cases = len({row.case for of in rows.values() for row in of})
    seeds = config.sweep.seeds
    each = f", each the mean of {seeds} seeds" if seeds > 1 else ""
    return (
        f"{built.scored_title}, {cases} cases at {by(built.size)}, {config.loss.name}, "
        f"{len(points)} settings{each}, mean ± bootstrap standard error"
    )
