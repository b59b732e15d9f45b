"""Batches: what is in them, in which order, where patches lie, what is kept between epochs."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dicepp_jax import preprocess
from dicepp_jax.data.pipeline import Patches, Prepared, Tiles, Volumes, batches, case_id
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


CT = dataclasses.replace(PHANTOM_3D, patches=True)
MR = dataclasses.replace(
    CT, channels=2, dtype="float32", intensity_range=None, per_channel=True, classes=("no", "yes")
)
UNCLIPPED = dataclasses.replace(CT, intensity_range=None)
PATCH = (3, 4, 5)
SHAPES = ((7, 6, 5), (4, 9, 8), (2, 9, 6), (1, 2, 3))


class Scans(Stored):
    """Volumes whose intensities say where in them a voxel is."""

    def __init__(self, count, shapes=SHAPES, spec=CT):
        super().__init__(count, shapes, spec)

    @staticmethod
    def draw(index, shape, spec):
        rng = np.random.default_rng([2, index])
        image = rng.permutation(np.prod(shape) * spec.channels).reshape(*shape, spec.channels)
        label = rng.integers(0, len(spec.classes), shape, np.uint8)
        return {"id": f"case_{index}".encode(), "image": image.astype(spec.dtype), "label": label}


def scan(label, name=b"case_0"):
    """A volume with these labels."""
    image = np.arange(label.size, dtype=np.int16).reshape(*label.shape, 1)
    return {"id": name, "image": image, "label": label}


def volumes(stored, size=PATCH, spec=CT, cache_bytes=ROOMY):
    return Volumes(stored, spec, size, cache_bytes)


def patches(stored, size=PATCH, spec=CT, cache_bytes=ROOMY, **fields):
    return Patches(
        volumes(stored, size, spec, cache_bytes), **{"seed": 0, "stream": "train"} | fields
    )


def normalised(stored, spec):
    """The z-score of a whole volume, in float64."""
    image = stored["image"].astype(np.float64)
    if spec.intensity_range:
        image = np.clip(image, *spec.intensity_range)
    parts = np.split(image, spec.channels, -1) if spec.per_channel else [image]
    return np.concatenate([(part - part.mean()) / part.std() for part in parts], -1)


def cut(stored, start, size, spec):
    """The patch of the whole normalised volume, voxel by voxel."""
    whole = normalised(stored, spec)
    image = np.full((*size, spec.channels), whole.min())
    label = np.zeros(size, int)
    for at in np.ndindex(*size):
        voxel = tuple(np.add(start, at))
        if all(0 <= v < n for v, n in zip(voxel, stored["label"].shape, strict=True)):
            image[at], label[at] = whole[voxel], stored["label"][voxel]
    return image, label


def middle(shape, size):
    """Where patches begin along the axes of a volume that are shorter than the patch."""
    axes = zip(shape, size, strict=True)
    return [-((n - length) // 2) if length < n else None for length, n in axes]


def starts_of(cases, epochs):
    """Where the patches of a `scan` begin, by the value of their first voxels."""
    stored = cases.volumes[0]
    drawn = []
    for epoch in range(epochs):
        patch = cases.at(epoch)[0]
        value = patch["image"][0, 0, 0, 0] * stored.deviation + stored.mean
        drawn.append(np.unravel_index(round(value), stored.label.shape))
    return np.array(drawn)


@pytest.mark.parametrize("spec", [CT, MR], ids=["int16", "float32"])
def test_a_patch_is_cut_from_the_normalised_volume(spec):
    stored = Scans(4, spec=spec)
    cases = volumes(stored, spec=spec)
    for index, shape in enumerate(SHAPES):
        for drawn in np.random.default_rng([5, index]).integers(-2, 3, (6, 3)):
            start = [
                m if m is not None else d for m, d in zip(middle(shape, PATCH), drawn, strict=True)
            ]
            patch = cases.patch(cases[index], start)
            image, label = cut(stored[index], start, PATCH, spec)
            assert patch["image"].dtype == np.float32 and patch["label"].dtype == np.int32
            np.testing.assert_allclose(patch["image"], image, rtol=1e-6, atol=1e-6)
            np.testing.assert_array_equal(patch["label"], label)
            whole = preprocess.normalise(
                stored[index]["image"], spec.intensity_range, spec.per_channel
            )
            # Not a digit differs from cutting after normalising.
            assert np.isin(patch["image"], whole).all()


@pytest.mark.parametrize("stream", ["train", "validation"])
def test_batches_hold_one_patch_of_every_volume(stream):
    stored = Scans(5)
    epoch = list(batches(patches(stored, stream=stream), 2, epoch=3))
    assert [batch["image"].shape for batch in epoch] == [(n, *PATCH, 1) for n in (2, 2, 1)]
    assert ids(epoch) == [f"case_{index}" for index in range(5)]
    for index, (batch, place) in enumerate((b, p) for b in epoch for p in range(len(b["id"]))):
        shape = SHAPES[index % 4]
        axes = [
            range(length - n + 1) if length >= n else [m]
            for length, n, m in zip(shape, PATCH, middle(shape, PATCH), strict=True)
        ]
        matching = [
            start
            for start in itertools.product(*axes)
            if np.allclose(batch["image"][place], cut(stored[index], start, PATCH, CT)[0], 1e-5)
            and (batch["label"][place] == cut(stored[index], start, PATCH, CT)[1]).all()
        ]
        assert len(matching) == 1


def test_padding_is_the_minimum_and_background():
    stored = scan(np.full((2, 9, 6), 2, np.uint8))
    patch = patches([stored], (5, 9, 9))[0]
    inside = np.zeros((5, 9, 9), bool)
    inside[1:3, :, 1:7] = True
    np.testing.assert_array_equal(patch["label"], np.where(inside, 2, 0))
    lowest = normalised(stored, CT).min()
    np.testing.assert_allclose(patch["image"][~inside], lowest, rtol=1e-6)
    assert patch["image"].min() == patch["image"][~inside].max()


def test_patches_depend_on_seed_stream_epoch_and_name_and_on_nothing_else():
    stored = Scans(5, shapes=((30, 40, 50),))

    def drawn(seed=3, stream="train", epoch=7, cases=stored, **fields):
        epoch = batches(patches(cases, seed=seed, stream=stream, **fields), 2, epoch=epoch)
        images = {
            str(name): image
            for batch in epoch
            for name, image in zip(batch["id"], batch["image"], strict=True)
        }
        return b"".join(images[name].tobytes() for name in sorted(images))

    assert drawn() == drawn() == drawn(cache_bytes=0) == drawn(cases=stored[::-1])
    others = [drawn(seed=4), drawn(stream="validation"), drawn(epoch=8)]
    assert len({drawn(), *others}) == 4
    # The same volume under another name.
    images = [patches([stored[0] | {"id": name}]).at(1)[0]["image"] for name in (b"a", b"b")]
    assert (images[0] != images[1]).any()


def test_an_epoch_of_patches_can_be_had_again_by_any_batch_size():
    cases = patches(Scans(7, shapes=((30, 40, 50),)), foreground=0.5)

    def examples(batch_size, epoch):
        epoch = batches(cases, batch_size, shuffle_seed=2, epoch=epoch)
        return [
            (str(b["id"][i]), b["image"][i].tobytes()) for b in epoch for i in range(len(b["id"]))
        ]

    sequence = [examples(1, epoch) for epoch in range(4)]
    assert len({tuple(epoch) for epoch in sequence}) == 4
    for epoch, batch_size in ((3, 2), (0, 5), (2, 7)):
        assert examples(batch_size, epoch) == sequence[epoch]


def test_every_start_is_as_probable():
    cases = patches([scan(np.zeros((6, 7, 5), np.uint8))], (3, 4, 5))
    drawn = starts_of(cases, 3000)
    assert drawn.min(0).tolist() == [0, 0, 0] and drawn.max(0).tolist() == [3, 3, 0]
    counts = np.bincount(drawn @ [4, 1, 0], minlength=16)
    assert stats.chisquare(counts).pvalue > 0.01


def test_patches_around_the_foreground_hold_each_class_as_often():
    label = np.zeros((12, 12, 12), np.uint8)
    label[:4, :4, :4] = 1
    label[10, 10, 9] = 2
    cases = patches([scan(label)], (2, 3, 3), foreground=1.0)
    seen = [set(np.unique(cases.at(epoch)[0]["label"])) - {0} for epoch in range(800)]
    assert all(len(classes) == 1 for classes in seen)
    share = sum(classes == {2} for classes in seen) / len(seen)
    assert abs(share - 0.5) < 4 * 0.5 / np.sqrt(len(seen))


@pytest.mark.parametrize(
    ("voxel", "first", "last"),
    [
        ((5, 6, 7), (4, 4, 5), (5, 6, 7)),
        ((0, 9, 8), (0, 7, 6), (0, 7, 7)),
        ((9, 0, 1), (8, 0, 0), (8, 0, 1)),
    ],
)
def test_the_patch_lies_anywhere_around_its_voxel(voxel, first, last):
    label = np.zeros((10, 10, 10), np.uint8)
    label[voxel] = 1
    drawn = starts_of(patches([scan(label)], (2, 3, 3), UNCLIPPED, foreground=1.0), 600)
    assert (drawn.min(0) == first).all() and (drawn.max(0) == last).all()
    widths = np.subtract(last, first) + 1
    places = np.ravel_multi_index((drawn - first).T, widths)
    counts = np.bincount(places, minlength=widths.prod())
    assert len(counts) == 1 or stats.chisquare(counts).pvalue > 0.01


def test_the_share_around_the_foreground_is_the_one_asked_for():
    label = np.zeros((24, 24, 24), np.uint8)
    label[11, 12, 13] = 2
    for share in (0.0, 0.33):
        cases = patches([scan(label)], (2, 2, 2), foreground=share)
        hits = np.mean([cases.at(epoch)[0]["label"].any() for epoch in range(2000)])
        expected = share + (1 - share) * 8 / 23**3
        assert abs(hits - expected) < 4 * np.sqrt(expected * (1 - expected) / 2000)


def test_a_volume_without_foreground_is_cut_anywhere():
    drawn = starts_of(patches([scan(np.zeros((6, 4, 5), np.uint8))], PATCH, foreground=1.0), 200)
    assert set(drawn[:, 0]) == {0, 1, 2, 3}


@pytest.mark.parametrize("kept", [0, 1, 3, 5])
def test_as_many_volumes_are_kept_as_the_limit_allows(kept):
    stored = Scans(5, shapes=((6, 7, 8),))
    each = 6 * 7 * 8 * (2 + 1)
    cases = patches(stored, cache_bytes=each * kept + each // 2)
    assert cases.nbytes == 0
    list(batches(cases, 2))
    assert cases.nbytes == 5 * each
    assert sorted(stored.read) == list(range(5))
    stored.read.clear()
    list(batches(cases, 2, epoch=1))
    assert len(stored.read) == 5 - kept


def test_tiles_are_the_windows_of_every_volume():
    stored = Scans(3, shapes=((7, 6, 5), (3, 9, 8), (1, 4, 6)))
    cases = Tiles(volumes(stored), (1, 2, 2))
    expected = [
        *((0, start) for start in itertools.product((0, 2, 4), (0, 2), (0,))),
        *((1, start) for start in itertools.product((0,), (0, 2, 4, 5), (0, 3))),
        *((2, start) for start in itertools.product((-1,), (0,), (0, 1))),
    ]
    seen = [
        example
        for batch in batches(cases, 4, epoch=5)
        for example in zip(batch["id"], batch["image"], batch["label"], strict=True)
    ]
    assert len(cases) == len(seen) == len(expected)
    for (name, image, label), (index, start) in zip(seen, expected, strict=True):
        assert name == f"case_{index}"
        values, classes = cut(stored[index], start, PATCH, CT)
        np.testing.assert_allclose(image, values, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(label, classes)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 60), st.integers(1, 20), st.data())
def test_windows_cover_an_axis_and_end_at_its_border(length, window, data):
    overlap = data.draw(st.integers(0, window - 1))
    starts = preprocess.window_starts(length, window, overlap)
    covered = {v for start in starts for v in range(start, start + window)}
    assert covered >= set(range(length)) and starts[0] == 0
    assert starts[-1] == max(0, length - window)
    steps = np.diff(starts)
    assert (steps > 0).all() and (steps[:-1] == window - overlap).all()
    assert not len(steps) or steps[-1] <= window - overlap
