"""Batches: what is in them, in which order, and what is kept between epochs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicepp_jax.data import preprocess
from dicepp_jax.data.pipeline import Prepared, batches, case_id
from dicepp_jax.data.specs import PHANTOM, PHANTOM_3D

ROOMY = 10**9
SIZE = (8, 6)
CASE_BYTES = 8 * 6 * (3 + 1) * 4  # three channels float32 and a label int32


class Stored(list):
    """Stored cases that remember which were read."""

    def __init__(self, count, shapes=((9, 11), (8, 6), (5, 13)), spec=PHANTOM):
        super().__init__(
            self.draw(index, shapes[index % len(shapes)], spec) for index in range(count)
        )
        self.read = []

    @staticmethod
    def draw(index, shape, spec):
        rng = np.random.default_rng([1, index])
        image = rng.integers(0, 256, (*shape, spec.channels)).astype(spec.dtype)
        label = rng.integers(0, len(spec.classes), shape, np.uint8)
        return {"id": f"case_{index}".encode(), "image": image, "label": label}

    def __getitem__(self, index):
        self.read.append(index)
        return super().__getitem__(index)


def prepare(count, cache_bytes=ROOMY):
    return Prepared(Stored(count), PHANTOM, SIZE, cache_bytes)


def ids(epoch):
    """The names of the cases of an epoch, batch after batch."""
    return [str(name) for batch in epoch for name in batch["id"]]


def assert_same(epoch, other):
    for batch, expected in zip(epoch, other, strict=True):
        assert set(batch) == set(expected) == {"image", "label", "id"}
        for name in batch:
            np.testing.assert_array_equal(batch[name], expected[name])


@pytest.mark.parametrize(
    "spec, shapes, size",
    [
        (PHANTOM, ((9, 11), (8, 6), (5, 13)), (8, 6)),
        (PHANTOM_3D, ((5, 6, 7), (4, 8, 4)), (4, 8, 4)),
    ],
)
def test_batches_hold_prepared_cases(spec, shapes, size):
    stored = Stored(5, shapes, spec)
    epoch = list(batches(Prepared(stored, spec, size, ROOMY), 2))
    assert [len(batch["id"]) for batch in epoch] == [2, 2, 1]
    assert ids(epoch) == [f"case_{index}" for index in range(5)]
    for batch in epoch:
        count = len(batch["id"])
        assert batch["image"].shape == (count, *size, spec.channels)
        assert batch["label"].shape == (count, *size)
        assert batch["image"].dtype == np.float32 and batch["label"].dtype == np.int32
        assert batch["id"].shape == (count,) and batch["id"].dtype.kind == "U"
        for name, image, label in zip(batch["id"], batch["image"], batch["label"], strict=True):
            case = next(case for case in stored if case_id(case) == name)
            expected = preprocess.network_image(spec, case["image"], size)
            np.testing.assert_array_equal(image, expected)
            expected = preprocess.resize_label(case["label"], size, len(spec.classes))
            np.testing.assert_array_equal(label, expected)


def test_same_seed_and_epoch_give_the_same_batches():
    first = batches(prepare(7), 3, shuffle_seed=5, epoch=4)
    assert_same(first, list(batches(prepare(7), 3, shuffle_seed=5, epoch=4)))


def test_other_epochs_and_seeds_give_other_orders():
    orders = [
        tuple(ids(batches(prepare(7), 3, shuffle_seed=seed, epoch=epoch)))
        for seed in range(4)
        for epoch in range(4)
    ]
    assert len(set(orders)) == len(orders)


def test_without_a_seed_cases_keep_their_order():
    for epoch in range(3):
        assert ids(batches(prepare(7), 3, epoch=epoch)) == [f"case_{i}" for i in range(7)]


def test_an_epoch_had_directly_is_the_epoch_reached_in_sequence():
    cases = prepare(7)
    sequence = [list(batches(cases, 3, shuffle_seed=2, epoch=epoch)) for epoch in range(6)]
    for epoch in (5, 3, 0):
        assert_same(batches(prepare(7), 3, shuffle_seed=2, epoch=epoch), sequence[epoch])


def test_order_does_not_depend_on_the_batch_size():
    orders = [ids(batches(prepare(7), size, shuffle_seed=2, epoch=1)) for size in (1, 2, 7, 9)]
    assert orders == orders[:1] * 4


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 9),
    batch_size=st.integers(1, 5),
    seed=st.none() | st.integers(0, 2**31),
    epoch=st.integers(0, 1000),
)
def test_every_case_comes_once_an_epoch(count, batch_size, seed, epoch):
    drawn = list(batches(prepare(count), batch_size, shuffle_seed=seed, epoch=epoch))
    assert sorted(ids(drawn)) == [f"case_{index}" for index in range(count)]
    whole, rest = divmod(count, batch_size)
    assert [len(batch["id"]) for batch in drawn] == [batch_size] * whole + [rest] * (rest > 0)


@pytest.mark.parametrize(
    "cache_bytes, kept",
    [(0, 0), (CASE_BYTES - 1, 0), (CASE_BYTES, 1), (3 * CASE_BYTES + 1, 3), (ROOMY, 5)],
)
def test_as_many_cases_are_kept_as_the_limit_allows(cache_bytes, kept):
    stored = Stored(5)
    cases = Prepared(stored, PHANTOM, SIZE, cache_bytes)
    expected = list(batches(prepare(5), 2))
    assert_same(batches(cases, 2), expected)
    assert sorted(stored.read) == list(range(5))
    stored.read.clear()
    assert_same(batches(cases, 2), expected)
    assert len(stored.read) == 5 - kept


@pytest.mark.parametrize("batch_size", [1, 2])
def test_what_is_kept_cannot_be_changed_through_a_batch(batch_size):
    cases = prepare(2)
    for batch in batches(cases, batch_size):
        for name in ("image", "label"):
            if batch[name].flags.writeable:
                batch[name][:] = 9
            else:
                with pytest.raises(ValueError, match="read-only"):
                    batch[name][:] = 9
    assert_same(batches(cases, 1), list(batches(prepare(2), 1)))
