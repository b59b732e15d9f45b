"""Calibration after training: temperature scaling of a run, ensembles of seeds and of folds."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from dicepp_jax import inference, score_files
from dicepp_jax.losses import from_probabilities
from dicepp_jax.progress import track
from dicepp_jax.rows import summarise
from dicepp_jax.scaling import fit_temperature
from dicepp_jax.score_files import score_split
from dicepp_jax.text_table import calibration_table, normal_table, summary_table
from dicepp_jax.wording import listed
from experiments.setup import components
from experiments.setup.components import Components
from experiments.training.single import best_predictor
from experiments.workdirs import derived, directory, stored, trained

VOXELS = 2**16
"""Number of voxels of each validation case that the fit uses, drawn at random if it has more."""


def scale_temperature(
    workdir: Path, data_dir: str | None = None, manual_dir: str | None = None
) -> str:
    """Fit a temperature to a run's validation split and score its test split with it.

    Args:
      workdir: of the run; the scores go to its folder "temperature".
      data_dir: of prepared sets, None as for the run.
      manual_dir: of the set's files, None as for the run.

    Returns:
      A table of the scores before and after.

    Raises:
      FileNotFoundError: if there is no run or its images are not available.
      ValueError: if the images have changed, or no temperature is best.
    """
    _check(workdir)
    with directory.lock(workdir):
        config, built = _open(workdir, data_dir, manual_dir)
        predict = best_predictor(config, built, workdir, config.loss.name)
        temperature = fit(predict, built.splits["validation"], len(built.spec.classes))
        print(f"{config.loss.name}: T = {temperature:.3f}")
        folder = workdir / derived.TEMPERATURE
        (folder / trained.CURVE).unlink(missing_ok=True)
        predict = inference.tempered(predict, temperature)
        scored = _score(predict, config, built, folder)
        derived.write(folder, derived.TEMPERATURE, [workdir], temperature)
    before = score_files.read(workdir, built.spec.classes)
    names = config.loss.name, f"{config.loss.name}, T = {temperature:.2f}"
    return _report(dict(zip(names, (before, scored), strict=True)), built)


def fit(predict: inference.Predict, cases: Sequence, num_classes: int) -> float:
    """The temperature that calibrates predictions of some cases.

    Args:
      predict: what to calibrate.
      cases: stored cases that the network was not trained on.
      num_classes: C.

    Returns:
      T, by `scaling.fit_temperature`.

    Raises:
      ValueError: if no T is best.
    """
    logits, labels, where = [], [], []
    for index, case in enumerate(track(cases, "predicting validation", len(cases), "case")):
        label = case.get("native_label", case["label"])
        probs = predict(case["image"], label.shape).reshape(-1, num_classes)
        chosen = np.arange(label.size)
        if label.size > VOXELS:
            rng = np.random.default_rng([0, index])
            chosen = rng.choice(label.size, VOXELS, replace=False, shuffle=False)
        # All have one shape, so that they share a compilation.
        rest = (0, VOXELS - len(chosen))
        p = np.pad(probs[chosen], (rest, (0, 0)), constant_values=1)
        y = np.pad(label.reshape(-1)[chosen].astype(np.int32), rest)
        logits.append(from_probabilities(jnp.asarray(p[None])))
        labels.append(jnp.asarray(y[None]))
        where.append(jnp.asarray(np.arange(VOXELS) < len(chosen))[None])
    return fit_temperature(logits, labels, where)


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
        _check(workdir)
    opened = [_open(workdir, data_dir, manual_dir) for workdir in workdirs]
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
        derived.write(output, kind, workdirs)
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


def _check(workdir: Path) -> None:
    """Refuse a directory that is not that of one scored run."""
    if not (workdir / directory.RUN).exists():
        raise FileNotFoundError(
            f"{workdir / directory.RUN} does not exist; give the --workdir of experiments.run"
        )
    directory.check_single(workdir)
    if not score_files.is_complete(workdir):
        raise FileNotFoundError(
            f"{workdir} has no scores yet; repeat the command of that run, which resumes it"
        )


def _open(
    workdir: Path, data_dir: str | None, manual_dir: str | None
) -> tuple[ConfigDict, Components]:
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
    return score_split(predict, cases, built.spec, folder, figures=figures)


def _report(scores: dict[str, score_files.SplitScores], built: Components) -> str:
    summaries = {name: summarise(of.rows) for name, of in scores.items()}
    title = f"{built.scored_title}, mean ± bootstrap standard error"
    classes = built.spec.classes
    return (
        f"{title}\n{summary_table(summaries, classes[0])}"
        + calibration_table({name: of.calibration(classes) for name, of in scores.items()})
        + normal_table({name: of.false_positives for name, of in scores.items()})
    )
