"""Calibration after training: of a run, ensembles of seeds and of folds, scored."""

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from dicepp_jax import inference, score_files
from dicepp_jax.rows import summarise
from dicepp_jax.score_files import score_split
from dicepp_jax.text_table import calibration_table, normal_table, rater_table, summary_table
from dicepp_jax.wording import listed
from experiments.setup import components
from experiments.setup.components import Components
from experiments.training.calibrators import CALIBRATORS
from experiments.training.single import best_predictor
from experiments.workdirs import derived, directory, finished, stored, trained


def calibrate(
    workdir: Path,
    method: str = derived.TEMPERATURE,
    data_dir: str | None = None,
    manual_dir: str | None = None,
    **options: int,
) -> str:
    """Calibrate a run and score its test split.

    Args:
      workdir: of the run; the scores go to a folder in it, named as the method.
      method: a key of `calibrators.CALIBRATORS`; most are fitted to the validation split.
      data_dir: of prepared sets, None as for the run.
      manual_dir: of the set's files, None as for the run.
      options: of the method.

    Returns:
      A table of the scores before and after.

    Raises:
      FileNotFoundError: if there is no run or its images are not available.
      ValueError: if the images have changed, the method does not apply to the run, or no
        parameters are best.
    """
    check_scored(workdir)
    with directory.lock(workdir):
        config, built = open_run(workdir, data_dir, manual_dir)
        start = time.perf_counter()
        calibrated = CALIBRATORS[method](config, built, workdir, **options)
        seconds = time.perf_counter() - start
        own = finished.loss_of(config)
        name = f"{own}, {calibrated.title}"
        print(name)
        folder = workdir / method
        (folder / trained.CURVE).unlink(missing_ok=True)
        scored = _score(calibrated.predict, config, built, folder)
        derived.write(
            folder,
            method,
            [workdir],
            seconds=seconds,
            evaluations=calibrated.evaluations,
            **calibrated.fitted,
        )
    before = score_files.read(workdir, built.spec.classes)
    return _report({own: before, name: scored}, built)


def combine(
    workdirs: Sequence[Path],
    output: Path,
    data_dir: str | None = None,
    manual_dir: str | None = None,
) -> str:
    """Score runs of several seeds or folds together.

    With a test split, the mean of their predictions is scored on it: their ensemble. Where every
    case is in a fold, there is none, and each case has the score of the network that was not
    trained on it.

    Args:
      workdirs: of the runs.
      output: the folder of the scores.
      data_dir: of prepared sets, None as for the runs.
      manual_dir: of the set's files, None as for the runs.

    Returns:
      A table of the scores of each and of all together.

    Raises:
      FileNotFoundError: if there is no run or its images are not available.
      ValueError: if the runs differ in more than their seed or fold, the images have changed, a
        fold is missing that is needed, or the folder is that of a run.
    """
    if (output / directory.RUN).exists() or (
        score_files.is_complete(output) and not (output / derived.DERIVED).exists()
    ):
        raise ValueError(
            f"{output} holds a run, whose scores would be overwritten; choose another --output"
        )
    for workdir in workdirs:
        check_scored(workdir)
    opened = [open_run(workdir, data_dir, manual_dir) for workdir in workdirs]
    names = _names(workdirs, opened)
    config, built = opened[0]
    classes = built.spec.classes
    single = [score_files.read(workdir, classes) for workdir in workdirs]
    with directory.lock(output):
        if built.scored_part == "test":
            predicts = [
                best_predictor(config, built, workdir, str(workdir))
                for (config, built), workdir in zip(opened, workdirs, strict=True)
            ]
            together, kind = "ensemble", derived.ENSEMBLE
            scored = _score(inference.ensemble(predicts), config, built, output)
        else:
            _check_folds(workdirs, opened)
            together, kind = "all folds", derived.FOLDS
            scored = score_files.merge(single, config.evaluation.figures)
            score_files.write(output, scored, classes)
        evaluations = len(workdirs) if kind == derived.ENSEMBLE else 1
        derived.write(output, kind, workdirs, evaluations=evaluations)
    return _report({**dict(zip(names, single, strict=True)), together: scored}, built)


def _names(workdirs: Sequence[Path], opened: Sequence[tuple[ConfigDict, Components]]) -> list[str]:
    """What distinguishes runs that may be combined, such as "fold 1" or "fold 1, seed 2".

    Raises:
      ValueError: if they differ in more, or two of them in nothing.
    """
    (first, built), (one, *others) = opened[0], workdirs
    for workdir, (config, other) in zip(others, opened[1:], strict=True):
        changes = directory.differences(first, config, (*directory.FREE, "seed", "data.fold"))
        if other.loaded.test_digest != built.loaded.test_digest:
            changes.append("other cases, masks or test split")
        if changes:
            raise ValueError(
                f"{one} and {workdir} differ in more than their seed or fold "
                f"({'; '.join(changes)}); give runs of one config"
            )
    configs = [config for config, _ in opened]
    axes = {
        "fold": [config.data.fold for config in configs],
        "seed": [config.seed for config in configs],
    }
    varied = {axis: values for axis, values in axes.items() if len(set(values)) > 1}
    names = [
        ", ".join(f"{axis} {values[number]}" for axis, values in varied.items())
        for number in range(len(configs))
    ]
    if len(set(names)) < len(names):
        raise ValueError("two of the runs have the same seed and fold; give each run once")
    return names


def _check_folds(workdirs: Sequence[Path], opened: Sequence[tuple[ConfigDict, Components]]) -> None:
    """Check that each case validates in exactly one of the runs.

    Raises:
      ValueError: naming the cases.
    """
    built = opened[0][1]
    times = Counter(case for _, other in opened for case in other.splits["validation"].ids)
    missing = [facts.id for facts in built.loaded.facts if not times[facts.id]]
    several = [case for case, count in times.items() if count > 1]
    if missing or several:
        folds = ", ".join(str(config.data.fold) for config, _ in opened)
        found = {"validate in none": missing, "validate in several": several}
        cases = "; ".join(f"{what}: {listed(ids)}" for what, ids in found.items() if ids)
        raise ValueError(
            f"{built.spec.title} has no test split, so each case is scored by the run of the fold "
            f"in which it validates, but of the given runs, of folds {folds}, these cases {cases}; "
            "give one run of every fold"
        )


def check_scored(workdir: Path) -> None:
    """Refuse a directory that is not that of one scored run.

    Raises:
      FileNotFoundError: if there is no run, or it has no scores.
      ValueError: if there are several.
    """
    if not (workdir / directory.RUN).exists():
        raise FileNotFoundError(
            f"{workdir / directory.RUN} does not exist; give the --workdir of experiments.run. If "
            "that run was stopped before it began to train, repeat its command first"
        )
    directory.check_single(workdir)
    if not score_files.is_complete(workdir):
        raise FileNotFoundError(
            f"{workdir} has no scores yet; repeat the command of that run, which resumes it"
        )


def open_run(
    workdir: Path, data_dir: str | None, manual_dir: str | None
) -> tuple[ConfigDict, Components]:
    """The config and the components of a run, on the images that it was trained on.

    Args:
      workdir: of the run.
      data_dir: of prepared sets, None as for the run.
      manual_dir: of the set's files, None as for the run.

    Raises:
      FileNotFoundError: if its images are not available.
      ValueError: if they have changed.
    """
    config = trained.read_config(workdir)
    if data_dir is not None:
        config.data.data_dir = data_dir
    if manual_dir is not None:
        config.data.manual_dir = manual_dir
    built = components.reopen(config)
    if built.loaded.digest != stored.read(workdir / directory.RUN, {"data": str})["data"]:
        raise ValueError(
            f"the cases of {built.spec.title}, their masks or their split are not those of "
            f"{workdir}"
        )
    return config, built


def _score(
    predict: inference.Predict, config: ConfigDict, built: Components, folder: Path
) -> score_files.SplitScores:
    cases, figures = built.splits[built.scored_part], config.evaluation.figures
    return score_split(predict, cases, built.spec, folder, size=built.size, figures=figures)


def _report(scores: dict[str, score_files.SplitScores], built: Components) -> str:
    summaries = {name: summarise(of.rows) for name, of in scores.items()}
    title = f"{built.scored_title}, mean ± bootstrap standard error"
    classes = built.spec.classes
    return (
        f"{title}\n{summary_table(summaries, classes[0])}"
        + calibration_table({name: of.calibration(classes) for name, of in scores.items()})
        + rater_table({name: of.rows for name, of in scores.items()}, classes[0])
        + normal_table({name: of.false_positives for name, of in scores.items()})
    )
