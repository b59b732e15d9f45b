"""A long run neither grows nor compiles anything after its first epoch."""

import contextlib
import gc
import os
import resource
from pathlib import Path

import jax
import numpy as np
from runs import tiny

from dicepp_jax import schedule, train
from dicepp_jax.checkpoint import Checkpoints
from dicepp_jax.losses import get_loss
from dicepp_jax.models import MODELS
from experiments.setup import components
from experiments.training import single
from experiments.workdirs import log


class Observed:
    """Resident memory in bytes and open files, epoch by epoch, and programs compiled since."""

    def __init__(self):
        self.memory, self.files, self.compiled = [], [], []

    def epoch(self):
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.memory.append(pages * resource.getpagesize())
        self.files.append(len(os.listdir("/proc/self/fd")))

    @contextlib.contextmanager
    def compiling(self):
        def listener(event, duration, **_):
            if event == "/jax/core/compile/backend_compile_duration" and self.memory:
                self.compiled.append(duration)

        jax.monitoring.register_event_duration_secs_listener(listener)
        gc.freeze()  # What exists already need not be searched in every epoch.
        try:
            yield
        finally:
            gc.unfreeze()
            jax.monitoring.unregister_event_duration_listener(listener)


def settled(values, length):
    """The smallest of the values when the run has settled, and at its end.

    The smallest, since files are open and memory is taken while a checkpoint is being written.
    """
    return min(values[length : 2 * length]), min(values[-length:])


def assert_constant(observed, length):
    assert observed.compiled == []
    (first, last), (opened, still) = (
        settled(values, length) for values in (observed.memory, observed.files)
    )
    assert last < 1.05 * first
    assert still <= opened


def test_two_thousand_steps_and_two_hundred_validations():
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.normal(size=(2, 8, 8, 1)).astype(np.float32),
        "label": (rng.random((2, 8, 8)) < 0.3).astype(np.int32),
    }
    model, key = MODELS["unet"](num_classes=2, filters=2, depth=1), jax.random.key(0)
    observed = Observed()
    with observed.compiling():
        for finished in train.fit(  # noqa: B007
            train.init_state(model, key, (1, 8, 8, 1)),
            key,
            train.make_train_step(model.apply, get_loss("dscpp"), None),
            train.make_eval_step(model.apply, get_loss("dscpp")),
            lambda epoch: [batch] * 10,
            lambda epoch: [batch],
            schedule.Settings(stop_patience=1000),
            epochs=200,
        ):
            observed.epoch()
    assert int(finished.state.step) == 2000
    assert_constant(observed, 40)


def test_thirty_epochs_with_data_records_and_checkpoints(data_dir, tmp_path, monkeypatch):
    config = tiny(data_dir, **{"data.batch_size": 8, "train.epochs": 30, "loss.name": "dscpp"})
    observed, save = Observed(), Checkpoints.save

    def saving(self, epoch):
        save(self, epoch)
        self.wait()  # Otherwise its files may still be open.
        observed.epoch()

    monkeypatch.setattr(Checkpoints, "save", saving)
    with observed.compiling():
        single.fit(config, components.build(config), tmp_path)
    assert len(log.read(tmp_path)) == 30
    assert_constant(observed, 10)
