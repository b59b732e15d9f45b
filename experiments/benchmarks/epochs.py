"""Batches of the input pipeline over the phantoms, and what training waits for them."""

import itertools
import tempfile
import time
from typing import Any

import jax

from dicepp_jax import data, schedule, train
from dicepp_jax.data import pipeline
from dicepp_jax.losses import get_loss
from experiments.benchmarks.networks import Network, unet
from experiments.benchmarks.timing import Shape, TimedCase, text

PHANTOMS = {2: "phantom", 3: "phantom_3d"}
"""By number of spatial axes."""
CACHE = 2**30


def data_cases(shape: Shape, filters: int) -> dict[str, TimedCase]:
    """Epochs of batches `(B, *spatial, channels)` whose stored cases are in memory.

    Whole images are resized and normalised; from volumes a random patch is cut. `cached` keeps
    prepared cases after the first epoch, `uncached` prepares them in each.
    """
    batch_size, *size, channels = shape
    with tempfile.TemporaryDirectory() as folder:
        if len(size) not in PHANTOMS:
            raise ValueError(f"--shapes {text(shape)}: expected two or three axes of space")
        loaded = data.load(PHANTOMS[len(size)], folder)
        spec = loaded.spec
        if channels != spec.channels:
            raise ValueError(
                f"--shapes {text(shape)}: images of {spec.title} have {spec.channels} channels"
            )
        stored = list(loaded.splits["train"])

    def examples(cache: int) -> pipeline.Cases:
        if not spec.patches:
            return pipeline.Prepared(stored, spec, tuple(size), cache)
        return pipeline.Patches(pipeline.Volumes(stored, spec, tuple(size), cache), 0, "train")

    def case(cases: pipeline.Cases) -> TimedCase:
        epochs = itertools.count()

        def call() -> None:
            for _ in pipeline.batches(cases, batch_size, shuffle_seed=0, epoch=next(epochs)):
                pass

        return TimedCase(call, spec.title, len(stored), "examples")

    network = unet(len(size), channels, len(spec.classes), filters)
    cached = examples(CACHE)
    step = train.make_train_step(network.apply, get_loss("dscpp"), None)
    evaluate = train.make_eval_step(network.apply, get_loss("dscpp"))
    return {
        "cached": case(cached),
        "uncached": case(examples(0)),
        "training": _training(network, step, evaluate, cached, batch_size),
    }


def _training(
    network: Network,
    step: train.TrainStep,
    evaluate: train.EvalStep,
    cases: pipeline.Cases,
    batch_size: int,
) -> TimedCase:
    """An epoch of training, validated on its first batch."""
    waited: list[float] = []
    spent: list[float] = []

    def batches(epoch: int) -> Any:
        return pipeline.batches(cases, batch_size, shuffle_seed=0, epoch=epoch)

    def call() -> None:
        state = network.state
        start = time.perf_counter()
        (epoch,) = train.fit(
            state,
            jax.random.key(0),
            step,
            evaluate,
            batches,
            lambda epoch: itertools.islice(batches(epoch), 1),
            schedule.Settings(),
            epochs=1,
        )
        waited.append(epoch.data_wait)
        spent.append(time.perf_counter() - start)

    def wait() -> float:
        # The first call compiles.
        return sum(waited[1:]) / sum(spent[1:])

    note = "forward, DSC++, backward, update; a batch of validation"
    return TimedCase(call, note, len(cases), "examples", data_wait=wait)
