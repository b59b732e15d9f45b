"""Grids against single runs, schedules against `replay`, and the command line of grids."""

import copy
import functools
import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from configs import base, drive_gamma_grid
from dicepp_jax import schedule, train, train_many
from dicepp_jax.augment import augment
from dicepp_jax.checkpoint import Checkpoints
from dicepp_jax.losses import get_loss
from dicepp_jax.models import MODELS
from dicepp_jax.rows import Row, Summary, read_csv
from dicepp_jax.train_many import Cost, Member, Programs, Strategy
from experiments.report.published import published
from experiments.setup import components
from experiments.training import grid, grid_points, grid_report, single
from experiments.training.recorder import OutOfTimeError
from experiments.workdirs import log

SHAPE = (16, 16)
GAMMAS = (0.5, 1.0, 2.0, 3.0)
SEEDS = (4, 5)


def batches(seed, size=5, channels=3, dtype=np.float32):
    """A stream of noisy images whose labels cannot be predicted with certainty."""

    def stream(epoch):
        rng = np.random.default_rng([seed, epoch])
        for _ in range(size):
            label = (rng.random((2, *SHAPE)) < 0.3).astype(np.int32)
            image = label[..., None] + rng.normal(size=(2, *SHAPE, channels))
            yield {"image": image.astype(dtype), "label": label, "id": np.array(["a", "b"])}

    return stream


def alone(member, state, apply, loss, aug, training, validation, epochs):
    """The same training run without a grid."""
    loss = functools.partial(loss, **member.hyper)
    return list(
        train.fit(
            jax.tree.map(jnp.copy, state),
            member.key,
            train.make_train_step(apply, loss, aug),
            train.make_eval_step(apply, loss),
            training,
            validation,
            member.settings,
            epochs=epochs,
        )
    )


@pytest.fixture(scope="module")
def members():
    """Four exponents of two seeds on a U-Net, and each of them trained alone for three epochs."""
    model = MODELS["unet"](num_classes=2, filters=2, depth=1)
    members, states = [], {}
    for gamma in GAMMAS:
        for stream, seed in enumerate(SEEDS):
            key = jax.random.key(seed)
            members.append(Member({"gamma": gamma}, schedule.Settings(), key, stream))
            states[len(states)] = train.init_state(model, key, (2, *SHAPE, 3))
    aug = functools.partial(augment, p_elastic=0.0)
    programs = train_many.make_programs(model.apply, get_loss("dscpp"), aug)
    expected = {
        n: alone(
            members[n],
            states[n],
            model.apply,
            get_loss("dscpp"),
            aug,
            batches(members[n].stream),
            batches(9),
            3,
        )
        for n in (0, 3, 4, 6)  # Each exponent, and both seeds.
    }
    return members, states, programs, expected


@pytest.mark.parametrize("strategy", [(1, 1), (3, 1), (2, 4)])
def test_members_train_as_they_would_alone(members, strategy):
    members, states, programs, expected = members
    streams = [batches(n) for n in range(len(SEEDS))]
    rounds = list(
        train_many.fit(
            members, states, programs, streams, [batches(9)], Strategy(*strategy), epochs=3
        )
    )
    assert len(rounds) == 3
    for epoch, finished in enumerate(rounds):
        assert not finished.diverged and sorted(finished.epochs) == list(range(len(members)))
        for n, known in expected.items():
            found = finished.epochs[n]
            assert found.epoch == epoch and found.schedule.learning_rate == 0.1
            assert found.train_loss == pytest.approx(known[epoch].train_loss, abs=1e-4)
            assert found.val_loss == pytest.approx(known[epoch].val_loss, abs=1e-4)
    for n, known in expected.items():
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, atol=1e-4),
            rounds[-1].epochs[n].state,
            known[-1].state,
        )


def linear(params, images):
    """The smallest network, of any dtype."""
    return images @ params["kernel"] + params["bias"].reshape(1, 1, 1, -1)


@pytest.mark.parametrize("strategy", [Strategy(4), Strategy(1), Strategy(2, 2)])
def test_whole_runs_are_equal_in_float64_with_reductions_and_stops(strategy):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        settings = schedule.Settings(patience=2, stop_patience=4)
        training, validation = batches(0, dtype=float), batches(1, 2, dtype=float)
        members = [Member({"gamma": g}, settings, jax.random.key(0)) for g in (1.0, 1.4, 2.0, 4.0)]
        states = {}
        for n in range(len(members)):
            params = {"kernel": jnp.array(rng.normal(size=(3, 2))), "bias": jnp.zeros(2)}
            states[n] = train.TrainState(jnp.int32(0), params, train.sgd(0.0).init(params))
        programs = train_many.make_programs(linear, get_loss("dscpp"), None)
        found = {n: [] for n in states}
        for finished in train_many.fit(
            members, states, programs, [training], [validation], strategy, epochs=60
        ):
            for n, epoch in finished.epochs.items():
                assert epoch.state.params["kernel"].dtype == jnp.float64
                found[n].append(epoch)
        stops = set()
        for n, member in enumerate(members):
            known = alone(
                member, states[n], linear, get_loss("dscpp"), None, training, validation, 60
            )
            assert known[-1].schedule.stopped and len(known) == len(found[n])
            stops.add(len(known))
            for a, b in zip(found[n], known, strict=True):
                assert a.learning_rate == b.learning_rate
                assert a.schedule[2:4] == b.schedule[2:4] and a.schedule[5:] == b.schedule[5:]
                np.testing.assert_allclose(a.val_loss, b.val_loss, rtol=1e-12)
            jax.tree.map(
                functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-12),
                found[n][-1].state,
                known[-1].state,
            )
            assert min(e.learning_rate for e in known) < 0.1
        assert len(stops) > 1  # Some continued without the others.


HISTORY = st.lists(st.sampled_from([0.5, 0.25, 0.125, 1.0, float("nan")]), min_size=12, max_size=12)


@given(st.lists(HISTORY, min_size=3, max_size=3), st.sampled_from([(3, 1), (2, 1), (1, 2)]))
@settings(max_examples=30)
def test_schedules_match_replay(histories, strategy):
    rules = schedule.Settings(patience=2, stop_patience=4)
    rows = np.array(histories)

    def evaluate(params, own, images, labels):
        return rows[np.asarray(own.hyper["row"], int), images.flat[0]][:, None]

    def train_step(state, own, images, labels, keys):
        return state, np.zeros(len(own.rate))

    programs = Programs(
        lambda images, labels, keys, step: (images, labels),
        lambda devices: train_step,
        lambda devices: evaluate,
    )

    def stream(epoch):
        return [{"image": np.array([epoch]), "label": np.array([0])}]

    state = train.TrainState(jnp.int32(0), {}, ())
    members = [Member({"row": n}, rules, jax.random.key(0)) for n in range(3)]
    found = {n: [] for n in range(3)}
    for finished in train_many.fit(
        members,
        dict.fromkeys(range(3), state),
        programs,
        [stream],
        [stream],
        Strategy(*strategy),
        epochs=12,
    ):
        for n, epoch in finished.epochs.items():
            found[n].append(epoch.schedule)
    for n, history in enumerate(histories):
        rates, stop = schedule.replay(history, patience=2, stop_patience=4)
        assert [plan.learning_rate for plan in found[n]] == rates
        assert found[n][-1].stopped == (stop is not None)


def test_a_member_that_diverges_leaves_the_others_as_they_were():
    stream = batches(0)
    members = [Member({"scale": x}, schedule.Settings(), jax.random.key(0)) for x in (1, 1e38, 2)]

    def loss(logits, labels, scale):
        return scale * get_loss("ce")(logits * scale, labels)

    params = {"kernel": jnp.ones((3, 2)).at[0].set(-1), "bias": jnp.zeros(2)}
    state = train.TrainState(jnp.int32(0), params, train.sgd(0.0).init(params))
    programs = train_many.make_programs(linear, loss, None)

    def fit(numbers):
        return list(
            train_many.fit(
                members,
                dict.fromkeys(numbers, state),
                programs,
                [stream],
                [stream],
                Strategy(3),
                epochs=3,
            )
        )

    rounds = fit([0, 1, 2])
    assert [sorted(finished.epochs) for finished in rounds] == [[0, 2]] * 3
    assert list(rounds[0].diverged) == [1] and "at step 1 of epoch 1" in rounds[0].diverged[1]
    assert not rounds[1].diverged
    for n in (0, 2):
        step, known = alone(members[n], state, linear, loss, None, stream, stream, 3)[-1].state[:2]
        assert rounds[-1].epochs[n].state.step == step
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-5),
            rounds[-1].epochs[n].state.params,
            known,
        )


def test_a_stopped_member_is_not_updated():
    stream = batches(0)
    rules = [schedule.Settings(stop_patience=1, min_delta=9.0), schedule.Settings()]
    members = [Member({}, rule, jax.random.key(0)) for rule in rules]
    params = {"kernel": jnp.ones((3, 2)).at[0].set(-1), "bias": jnp.zeros(2)}
    state = train.TrainState(jnp.int32(0), params, train.sgd(0.0).init(params))
    programs = train_many.make_programs(linear, get_loss("ce"), None)
    stopped, rounds = None, 0
    for finished in train_many.fit(
        members, {0: state, 1: state}, programs, [stream], [stream], Strategy(2), epochs=5
    ):
        rounds += 1
        if stopped is None:
            stopped = finished.epochs[0].state
            before = jax.tree.map(np.array, stopped)
        if rounds > 2:
            assert sorted(finished.epochs) == [1]
    assert rounds == 5
    # A jax array whose memory was donated to a later step could not be read.
    jax.tree.map(np.testing.assert_array_equal, before, stopped)
    jax.tree.map(np.testing.assert_array_equal, state.params, params)


@given(
    st.sets(st.integers(0, 40), min_size=1),
    st.integers(1, 40),
    st.integers(1, 8),
)
def test_every_member_has_one_lane(active, lanes, devices):
    active = sorted(active)
    found, groups = train_many.layout(active, Strategy(lanes, devices))
    assert [n for group in groups for n in group] == active
    width = found * devices
    assert all(len(group) == width for group in groups[:-1]) and 0 < len(groups[-1]) <= width
    assert 1 <= found <= lanes
    if found > 1:
        assert len(active) > -(-found // 2) * devices  # Half of the lanes would not suffice.
    assert found in {lanes} | {-(-lanes // 2**k) for k in range(1, 7)}


def cost_of(seconds, size=None):
    return lambda strategy: Cost(
        size and size * strategy.lanes, 1.0 if strategy.lanes == 1 else seconds(strategy.lanes)
    )


@pytest.mark.parametrize(
    "members, devices, cost, limit, expected",
    [
        (10, 1, cost_of(lambda lanes: 0.9 * lanes), 1, Strategy(10, 1)),
        (10, 1, cost_of(lambda lanes: 1.1 * lanes), 1, Strategy(1, 1)),
        (10, 1, cost_of(lambda lanes: 2.0, size=10), 45, Strategy(4, 1)),
        (10, 1, cost_of(lambda lanes: 2.0, size=10), 12, Strategy(1, 1)),
        (10, 4, cost_of(lambda lanes: 2.0), 1, Strategy(3, 4)),
        (10, 4, cost_of(lambda lanes: 4.0), 1, Strategy(1, 4)),
        (3, 8, cost_of(lambda lanes: 0.1), 1, Strategy(1, 3)),
    ],
)
def test_the_fastest_strategy_that_fits_is_chosen(members, devices, cost, limit, expected):
    assert train_many.choose(members, devices, cost, limit)[0] == expected


def test_measure_says_what_a_step_takes_and_changes_nothing(members):
    members, states, programs, _ = members
    batch = next(batches(0)(0))
    images, labels = (np.stack([batch[key]] * 2) for key in ("image", "label"))
    before = jax.tree.map(np.array, states[0])
    one, eight = (
        train_many.measure(programs, members, states[0], images, labels, Strategy(lanes))
        for lanes in (1, 8)
    )
    parameters = sum(x.nbytes for x in jax.tree.leaves(states[0].params))
    assert eight.bytes - one.bytes > 7 * 2 * parameters  # And the momentum of each parameter.
    assert 0 < one.seconds and 0 < eight.seconds
    jax.tree.map(np.testing.assert_array_equal, before, states[0])


def tiny(data_dir: str, **fields) -> ConfigDict:
    """The smallest grid that does everything."""
    config = base.get_config()
    config.data.data_dir = data_dir
    config.data.size = SHAPE
    config.model.filters = 2
    config.model.depth = 1
    config.train.epochs = 3
    config.evaluation.figures = 0
    config.sweep.strategy = "vmap"
    config.update_from_flattened_dict(fields)
    return config


def values(log):
    return np.array([[entry["train_loss"], entry["val_loss"]] for entry in log])


@pytest.fixture(scope="module")
def trained(data_dir, tmp_path_factory):
    """A grid of two exponents and two seeds that was run through."""
    workdir = tmp_path_factory.mktemp("grid")
    config = tiny(data_dir, **{"sweep.gamma": (1.0, 3.0), "sweep.seeds": 2})
    return config, workdir, grid.train_and_evaluate(config, workdir)


def test_each_member_is_a_run_of_its_own(trained, data_dir, tmp_path):
    _, workdir, _ = trained
    config = tiny(data_dir, **{"loss.gamma": 3.0, "seed": 1})
    single.train_and_evaluate(config, tmp_path)
    member = workdir / "gamma=3_seed=1"
    ours, known = (values(log.read(folder)) for folder in (member, tmp_path))
    np.testing.assert_allclose(ours[:2], known[:2], atol=1e-4)
    # Steps at a rate of 0.1 multiply what rounding makes different.
    np.testing.assert_allclose(ours[2], known[2], atol=1e-3)
    for file in ("run.json", "spec.json", "split.json", "test/cases.csv", "test/summary.csv"):
        assert (member / file).exists()
    kept = json.loads((member / "run.json").read_text())["config"]
    assert kept == json.loads(tiny(data_dir, **{
        "loss.gamma": 3.0, "seed": 1, "sweep.strategy": "auto"
    }).to_json())  # fmt: skip
    # So that the command of a run alone takes it.
    config.sweep.strategy = "auto"
    single.train_and_evaluate(config, member)
    assert len(log.read(member)) == 3


def test_scores_of_fewer_epochs_are_not_kept(trained, tmp_path):
    config, workdir, _ = trained
    shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
    longer = copy.deepcopy(config)
    longer.train.epochs = 5
    with pytest.raises(OutOfTimeError):
        grid.train_and_evaluate(longer, tmp_path, deadline=-math.inf)
    assert [len([*of.glob("*_seed=*/test")]) for of in (workdir, tmp_path)] == [4, 0]


def test_the_report_of_a_grid(trained):
    _, workdir, text = trained
    assert (workdir / "report.txt").read_text() == text + "\n"
    assert (workdir / "figures" / "gamma.png").exists()
    lines = text.splitlines()
    assert "20 cases at 16 x 16, dscpp, 2 settings, each the mean of 2 seeds" in lines[0]
    assert [line.split("  ")[0] for line in lines[5:9]] == [
        "gamma=1", "gamma=1, ensemble", "gamma=3", "gamma=3, ensemble"
    ]  # fmt: skip
    assert lines[10].startswith("Dice of the truth itself, resized to the network's input and back")
    assert lines[12].startswith("epochs trained: gamma=1_seed=0 3, gamma=1_seed=1 3, gamma=3")
    results = read_csv(workdir / "results.csv", grid_report.Result)
    seeds = [
        read_csv(workdir / f"gamma=1_seed={seed}" / "test" / "summary.csv", Summary)
        for seed in (0, 1)
    ]
    own = [row for row in results if row.setting == "gamma=1"]
    for row, *summaries in zip(own, *seeds, strict=True):
        assert row.summary[:3] == summaries[0][:3]
        if row.summary.undefined == 0:
            assert row.summary.mean == pytest.approx(np.mean([s.mean for s in summaries]), abs=1e-6)


def test_an_ensemble_averages_probabilities(trained, data_dir):
    config, workdir, _ = trained
    made = components.build(tiny(data_dir))
    predicts = [
        single.best_predictor(config, made, workdir / f"gamma=3_seed={seed}", "") for seed in (0, 1)
    ]
    stored = made.splits["test"][0]
    label = stored["label"]
    probs = np.mean([predict(stored["image"], label.shape) for predict in predicts], axis=0)
    rows = read_csv(workdir / "gamma=3_ensemble" / "test" / "cases.csv", Row)
    (brier,) = (
        row.value for row in rows if row[:4] == (stored["id"].decode(), "vessel", "image", "brier")
    )
    assert brier == pytest.approx(np.mean((probs[..., 1] - (label == 1)) ** 2), rel=1e-5)


def test_a_grid_that_is_broken_off_between_saves_goes_on_bit_for_bit(
    trained, data_dir, tmp_path, monkeypatch
):
    whole, _, text = trained
    save, done = Checkpoints.save, []

    def breaks_off(self, epoch):
        if len(done) == 6:  # Two members have finished the second epoch.
            raise KeyboardInterrupt
        save(self, epoch)
        done.append(epoch)

    monkeypatch.setattr(Checkpoints, "save", breaks_off)
    with pytest.raises(KeyboardInterrupt):
        grid.train_and_evaluate(whole, tmp_path)
    monkeypatch.setattr(Checkpoints, "save", save)
    assert grid.train_and_evaluate(whole, tmp_path) == text
    _, folder, _ = trained
    shapes = components.state_shapes(components.build(tiny(data_dir)))
    for member in ("gamma=1_seed=0", "gamma=3_seed=1"):
        assert [e["val_loss"] for e in log.read(tmp_path / member)] == [
            e["val_loss"] for e in log.read(folder / member)
        ]
        states = []
        for place in (tmp_path, folder):
            with Checkpoints(place / member / "checkpoints", read_only=True) as checkpoints:
                states.append(checkpoints.restore(checkpoints.last_epoch, shapes).state)
        jax.tree.map(np.testing.assert_array_equal, *states)


def test_a_member_that_diverged_is_told_and_tried_no_more(data_dir, tmp_path, capsys):
    fields = {"sweep.learning_rate": (0.1, 1e30), "loss.name": "ce", "train.epochs": 2}
    config = tiny(data_dir, **fields, **{"sweep.strategy": "sequential"})
    text = grid.train_and_evaluate(config, tmp_path)
    assert "learning_rate=1e+30 diverged: loss " in text.splitlines()[-1]
    assert "epochs trained: learning_rate=0.1 2, learning_rate=1e+30 0" in text
    assert len(log.read(tmp_path / "learning_rate=0.1")) == 2
    assert grid.train_and_evaluate(config, tmp_path) == text
    printed = capsys.readouterr()
    assert printed.out.count("strategy: one member at a time") == 1
    assert printed.err.count("learning_rate=1e+30 diverged: loss ") == 1


def test_a_grid_of_which_nothing_is_left_says_why(data_dir, tmp_path):
    fields = {"sweep.learning_rate": (1e30, 1e31), "loss.name": "ce", "train.epochs": 1}
    config = tiny(data_dir, **fields, **{"sweep.strategy": "sequential"})
    lines = grid.train_and_evaluate(config, tmp_path).splitlines()
    assert [line.split(":")[0] for line in lines[-2:]] == [
        "learning_rate=1e+30 diverged", "learning_rate=1e+31 diverged"
    ]  # fmt: skip
    assert not (tmp_path / "results.csv").exists()


def test_nobody_goes_on_with_a_member_meanwhile(trained, data_dir, monkeypatch):
    config, workdir, _ = trained
    refused = []

    def score(*_):
        with pytest.raises(ValueError, match="another process is working in"):
            alone = tiny(data_dir, **{"loss.gamma": 3.0, "sweep.strategy": "auto"})
            single.train_and_evaluate(alone, workdir / "gamma=3_seed=0")
        refused.append(True)
        return "report"

    monkeypatch.setattr(grid, "evaluate_and_report", score)
    assert grid.train_and_evaluate(config, workdir) == "report" and refused


def test_points_of_a_grid_are_crossed_or_zipped():
    config = base.get_config()
    config.loss.name = "tverskypp"
    config.sweep.alpha, config.sweep.beta, config.sweep.gamma = (0.3, 0.5), (0.7, 0.5), (1.0, 2.0)
    assert len(grid_points.expand(config)) == 8
    config.sweep.zip = "alpha,beta"
    found = grid_points.expand(config)
    assert list(found) == [
        "alpha=0.3_beta=0.7_gamma=1",
        "alpha=0.3_beta=0.7_gamma=2",
        "alpha=0.5_beta=0.5_gamma=1",
        "alpha=0.5_beta=0.5_gamma=2",
    ]
    ((_, member),) = found["alpha=0.5_beta=0.5_gamma=1"].members.items()
    assert (member.loss.alpha, member.loss.beta, member.loss.gamma) == (0.5, 0.5, 1.0)
    assert member.sweep == base.get_config().sweep


def test_a_grid_of_a_sum_sets_the_term_that_takes_it():
    config = base.get_config()
    config.loss.name, config.sweep.gamma = "dscpp+nacl", (1.0, 2.0)
    assert list(grid_points.expand(config)) == ["gamma=1", "gamma=2"]
    config.loss.name = "dscpp+exp_ce"
    with pytest.raises(ValueError, match="sweep.gamma is set, but gamma is a hyper-parameter of"):
        grid_points.expand(config)


def test_the_papers_grid():
    settings = grid_points.expand(drive_gamma_grid.get_config())
    ours = {next(iter(setting.members)) for setting in settings.values()}
    assert ours == {cell.method for cell in published() if cell.table == 3}


@pytest.mark.parametrize(
    "fields, message",
    {
        "no grid": ({}, "the config has no grid: set an axis such as"),
        "an axis of another loss": (
            {"sweep.delta": (0.5,)}, "sweep.delta is set, but loss 'dscpp' has no delta; it takes"
        ),
        "two losses": ({"loss.name": "dsc,dscpp"}, "give one, as in --config.loss.name=dscpp"),
        "devices": (
            {"sweep.gamma": (1.0, 2.0), "devices": 2}, "devices is 2, which applies to single runs"
        ),
        "a value twice": (
            {"sweep.gamma": (1.0, 1.00000001)}, "the grid has gamma=1 twice, to six digits"
        ),
        "no number": ({"sweep.gamma": (1.0, "a")}, "sweep.gamma is (1.0, 'a'); it must be"),
        "no seeds": ({"sweep.seeds": 0}, "sweep.seeds is 0; it must be a whole"),
        "zip of one unset": (
            {"sweep.gamma": (1.0, 2.0), "sweep.zip": "gamma,learning_rate"},
            "names axes with equally many values: gamma has 2; sweep.learning_rate has none",
        ),
        "zip of other lengths": (
            {"sweep.gamma": (1.0, 2.0), "sweep.learning_rate": (0.1,),
             "sweep.zip": "gamma,learning_rate"},
            "gamma has 2, learning_rate has 1",
        ),
        "strategy": (
            {"sweep.gamma": (1.0, 2.0), "sweep.strategy": "fast"},
            "sweep.strategy is 'fast'; it must be auto, vmap",
        ),
        "too many members": (
            {f"sweep.{axis}": tuple(range(1, 40)) for axis in ("gamma", "learning_rate")},
            "the grid has 1521 members, expected at most 1000"
        ),
        "a value that no loss takes": (
            {"sweep.gamma": (1.0, -2.0)}, "gamma"
        ),
    }.values(),
)  # fmt: skip
def test_grids_that_cannot_be(data_dir, tmp_path, fields, message):
    with pytest.raises(ValueError) as error:
        grid.train_and_evaluate(tiny(data_dir, **fields), tmp_path / "grid")
    assert message in str(error.value)


def test_a_run_alone_takes_no_grid(data_dir, tmp_path):
    with pytest.raises(ValueError, match="which python -m experiments.sweep trains"):
        single.train_and_evaluate(tiny(data_dir, **{"sweep.gamma": (1.0, 2.0)}), tmp_path)
