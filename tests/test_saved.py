"""A saved model: what it predicts, what it needs, and what it refuses."""

import dataclasses
import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dicepp_jax import preprocess
from dicepp_jax.data.specs import KITS19, PHANTOM, PHANTOM_3D
from dicepp_jax.inference import Windows, make_predict
from dicepp_jax.models import MODELS
from dicepp_jax.saved import load_model, save_model, segment

ROOT = Path(__file__).parents[1]
TRAINING = (
    "flax",
    "optax",
    "orbax",
    "tensorflow_datasets",
    "grain",
    "tensorflow",
    "ml_collections",
)
RUN = {"epoch": 4, "val_loss": 0.25, "config": {"seed": 0}}


def unet(spec, size):
    """Function and parameters of an untrained network."""
    model = MODELS["unet"](num_classes=len(spec.classes), filters=4, depth=1)
    init = jax.jit(model.init)
    return model.apply, init(jax.random.key(0), jnp.zeros((1, *size, spec.channels)))


def linear(params, images):
    """The fastest possible network."""
    return images @ params["kernel"]


def save_linear(folder, spec, size, **options):
    """Save a network whose logits clearly separate the classes; returns its kernel."""
    rng = np.random.default_rng(7)
    kernel = rng.normal(size=(spec.channels, len(spec.classes))).astype(np.float32)
    save_model(folder, linear, {"kernel": kernel}, spec, size, **RUN, **options)
    return kernel


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Directory of a run with a saved U-Net, and the U-Net."""
    folder = tmp_path_factory.mktemp("run")
    apply, params = unet(PHANTOM, (16, 16))
    save_model(folder, apply, params, PHANTOM, (16, 16), **RUN)
    return folder, apply, params


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(1).integers(0, 256, (21, 30, 3), np.uint8)


def in_a_process(code, *arguments, without=()):
    """Run Python code in a process in which some modules cannot be imported."""
    blocked = "".join(f"sys.modules[{name!r}] = None\n" for name in without)
    command = [sys.executable, "-c", f"import sys\n{blocked}{code}", *map(str, arguments)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=120)


def test_it_predicts_like_the_network_that_was_saved(saved, image):
    folder, apply, params = saved
    expected = make_predict(apply, params, PHANTOM, (16, 16))(image, (21, 30))
    model = load_model(folder)
    probs = model.predict(image)
    assert (probs.shape, probs.dtype) == ((21, 30, 2), np.float32)
    np.testing.assert_allclose(probs, expected, atol=1e-5)
    assert model.predict(image, native=(8, 9)).shape == (8, 9, 2)
    assert model.classes == ("background", "vessel")
    # A z-score is invariant to the scale.
    np.testing.assert_allclose(model.predict(image / 255), expected, atol=1e-5)


def test_it_loads_without_training_libraries_and_from_another_folder(saved, image, tmp_path):
    folder, _, _ = saved
    shutil.copytree(folder / "model", tmp_path / "sent")
    np.save(tmp_path / "image.npy", image)
    in_a_process(
        "import numpy as np\n"
        "from dicepp_jax.saved import load_model\n"
        "np.save(sys.argv[3], load_model(sys.argv[1]).predict(np.load(sys.argv[2])))",
        *(tmp_path / name for name in ("sent", "image.npy", "probs.npy")),
        without=TRAINING,
    )
    expected = load_model(folder).predict(image)
    np.testing.assert_allclose(np.load(tmp_path / "probs.npy"), expected, atol=1e-6)


def test_the_exported_network_alone(saved, tmp_path):
    folder, apply, params = saved
    images = np.random.default_rng(2).normal(size=(3, 16, 16, 3)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    in_a_process(
        "import numpy as np, pathlib\n"
        "from jax import export\n"
        "folder, images = pathlib.Path(sys.argv[1]), np.load(sys.argv[2])\n"
        "network = export.deserialize(bytearray((folder / 'network.jaxexport').read_bytes()))\n"
        "assert network.platforms == ('cpu', 'cuda', 'tpu')\n"
        "params = dict(np.load(folder / 'params.npz'))\n"
        "np.savez(sys.argv[3], three=network.call(params, images),\n"
        "         one=network.call(params, images[:1]))",
        *(folder / "model", tmp_path / "images.npy", tmp_path / "logits.npz"),
        without=(*TRAINING, "dicepp_jax"),
    )
    found, expected = np.load(tmp_path / "logits.npz"), apply(params, images)
    np.testing.assert_allclose(found["three"], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found["one"], expected[:1], rtol=1e-4, atol=1e-4)


def test_contents_of_model_json(saved):
    about = json.loads((saved[0] / "model" / "model.json").read_text())
    assert about["classes"] == ["background", "vessel"]
    assert (about["size"], about["channels"], about["patches"]) == ([16, 16], 3, False)
    assert (about["overlap"], about["weighting"], about["mirror"]) == (None, "uniform", False)
    assert (about["epoch"], about["val_loss"], about["config"]) == (4, 0.25, {"seed": 0})
    assert about["versions"]["jax"] == jax.__version__
    assert about["output"] == "float32 (b, 16, 16, 2) logits"
    assert about["preprocessing"][0] == "resize linearly to 16 x 16"
    with np.load(saved[0] / "model" / "params.npz") as arrays:
        assert "params/Block_0/Conv_0/kernel" in arrays
    assert not list(saved[0].rglob("*.part"))


def test_a_volume_at_its_own_spacing(tmp_path):
    spec = dataclasses.replace(PHANTOM_3D, spacing=(3.0, 1.5, 1.5))
    kernel = save_linear(tmp_path, spec, (8, 12, 10))
    model = load_model(tmp_path)
    assert model.about["preprocessing"][:3] == [
        "resample linearly to 3 x 1.5 x 1.5 mm", "resize linearly to 8 x 12 x 10",
        "clip to -79 to 304",
    ]  # fmt: skip
    volume = np.random.default_rng(3).integers(-200, 400, (13, 30, 20), np.int16)
    probs = model.predict(volume, spacing=(2.0, 0.8, 0.9))
    stored = preprocess.resize(volume[..., None], (8, 16, 12))
    seen = preprocess.normalise(preprocess.resize(stored, (8, 12, 10)), spec.intensity_range)
    expected = preprocess.resize(np.asarray(jax.nn.softmax(seen @ kernel)), (13, 30, 20))
    np.testing.assert_allclose(probs, expected, atol=1e-5)
    np.testing.assert_array_equal(model.predict(volume[..., None], (2.0, 0.8, 0.9)), probs)
    there = model.predict(stored, spec.spacing, native=(13, 30, 20))
    np.testing.assert_allclose(there, expected, atol=1e-5)


def test_a_volume_window_by_window(tmp_path):
    spec = dataclasses.replace(KITS19, spacing=(2.0, 2.0, 2.0))
    options = {"overlap": (2, 4, 3), "weighting": "gaussian", "batch_size": 2, "mirror": True}
    kernel = save_linear(tmp_path, spec, (4, 8, 6), windows=Windows(**options))
    volume = np.random.default_rng(4).integers(-200, 400, (7, 11, 13), np.int16)
    model = load_model(tmp_path)
    probs = model.predict(volume, spacing=(2.0, 2.0, 2.0))
    # A pointwise network returns the same for a voxel in every window that contains it.
    seen = preprocess.normalise(volume[..., None], spec.intensity_range)
    np.testing.assert_allclose(probs, jax.nn.softmax(seen @ kernel), atol=1e-5)
    assert model.about["preprocessing"][-1] == "pad with the minimum, cut into windows of 4 x 8 x 6"
    assert {name: model.about[name] for name in options} == options | {"overlap": [2, 4, 3]}


def test_grey_images_are_repeated_to_three_channels(saved, image):
    model = load_model(saved[0])
    grey = image[..., 0]
    probs = model.predict(np.repeat(grey[..., None], 3, axis=-1))
    np.testing.assert_array_equal(model.predict(grey), probs)
    np.testing.assert_array_equal(model.predict(grey[..., None]), probs)


@pytest.mark.parametrize(
    ("array", "spacing", "message"),
    [
        (np.zeros((4, 5, 6, 2)), (1, 1, 1), "has shape (4, 5, 6, 2), but the model of Kidney"),
        (np.zeros((4, 5)), (1, 1, 1), "expects (depth, height, width, 1 channels)"),
        (np.zeros((4, 5, 6), complex), (1, 1, 1), "is complex128 of shape (4, 5, 6, 1)"),
        (np.zeros((4, 0, 6)), (1, 1, 1), "is float64 of shape (4, 0, 6, 1)"),
        (np.zeros((4, 5, 6)), None, "works at 3 x 2 x 2 mm; pass the spacing of the volume"),
        (np.zeros((4, 5, 6)), (1, 1), "spacing is (1, 1), expected 3 positive lengths in mm"),
        (np.zeros((4, 5, 6)), (1, 0, 1), "spacing is (1, 0, 1)"),
        (np.zeros((4, 5, 6)), (1, 1, np.inf), "spacing is (1, 1, inf)"),
        (np.ones((4, 5, 6)), (1, 1, 1), "an image is 1.0 everywhere after clipping"),
    ],
)
def test_mismatched_images_are_refused(tmp_path_factory, array, spacing, message):
    folder = tmp_path_factory.getbasetemp() / "kidney"
    spec = dataclasses.replace(PHANTOM_3D, spacing=(3.0, 2.0, 2.0))
    if not folder.exists():
        save_linear(folder, spec, (4, 4, 4))
    with pytest.raises(ValueError, match=re.escape(message)):
        load_model(folder).predict(array, spacing)


def test_one_channel_is_not_repeated_to_several_sequences(tmp_path):
    spec = dataclasses.replace(PHANTOM_3D, channels=4, per_channel=True)
    save_linear(tmp_path, spec, (4, 4, 4))
    with pytest.raises(ValueError, match=re.escape("expects (depth, height, width, 4 channels)")):
        load_model(tmp_path).predict(np.zeros((4, 5, 6)))


def rewrite(name, change):
    def spoil(folder):
        about = json.loads((folder / name).read_text())
        change(about)
        (folder / name).write_text(json.dumps(about))

    return spoil


def cut(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-9])


def another_network(folder):
    """A file that matches its checksum in model.json but is no network that jax can read."""
    (folder / "network.jaxexport").write_bytes(b"of the year 2040")
    checksum = hashlib.sha256(b"of the year 2040").hexdigest()
    rewrite("model.json", lambda about: about["sha256"].update({"network.jaxexport": checksum}))(
        folder
    )


@pytest.mark.parametrize(
    ("spoil", "kind", "message"),
    [
        (cut("params.npz"), ValueError, r"checksum of .*params\.npz is not the one in model\.json"),
        (
            cut("network.jaxexport"),
            ValueError,
            "checksum of .*network.* is not the one .*delete it and let",
        ),
        (cut("model.json"), ValueError, r"model\.json does not describe a model \(JSONDecodeError"),
        (
            lambda folder: (folder / "params.npz").unlink(),
            FileNotFoundError,
            "which .*json refers to",
        ),
        (
            lambda folder: (folder / "model.json").unlink(),
            FileNotFoundError,
            "saves it when it first",
        ),
        (
            lambda folder: (folder / "model.json").write_text("[1]"),
            ValueError,
            "does not describe a model",
        ),
        (
            rewrite("model.json", lambda about: about.update(format=2)),
            ValueError,
            "has kind 'dicepp_jax model' and format 2, but dicepp_jax .* reads .* format 1",
        ),
        (
            rewrite("model.json", lambda about: about.update(kind="onnx")),
            ValueError,
            "has kind 'onnx' and format 1",
        ),
        (
            another_network,
            ValueError,
            "cannot read the network.jaxexport that jax .* wrote .*install",
        ),
        (rewrite("model.json", lambda about: about.pop("size")), ValueError, "has no size; copy"),
    ],
)
def test_corrupt_files_are_refused(saved, tmp_path, spoil, kind, message):
    shutil.copytree(saved[0] / "model", tmp_path / "model")
    spoil(tmp_path / "model")
    with pytest.raises(kind, match=message):
        load_model(tmp_path)


def test_saving_again_replaces_it(tmp_path):
    save_linear(tmp_path, PHANTOM, (8, 8))
    save_model(tmp_path, linear, {"kernel": np.zeros((3, 2), np.float32)}, PHANTOM, (8, 8), **RUN)
    image = np.random.default_rng(5).normal(size=(6, 6, 3))
    np.testing.assert_array_equal(load_model(tmp_path).predict(image), np.full((6, 6, 2), 0.5))


def test_a_threshold_with_several_classes_needs_a_target():
    probs = np.full((2, 3), 1 / 3, np.float32)
    for target in (None, "tumour", 3):
        with pytest.raises(
            ValueError, match="a threshold applies to one class, given by its index, 1 to 2"
        ):
            segment(probs, 0.3, target)


@given(
    hnp.arrays(np.float32, (6, 3), elements=st.sampled_from(np.float32([0, 0.25, 0.5, 0.75]))),
    st.none() | st.sampled_from([0.25, 0.3, 0.5, 1.0]),
    st.integers(1, 2),
)
def test_segment(probs, threshold, target):
    expected = []
    for voxel in probs:
        order = [(-p, label) for label, p in enumerate(voxel)]
        if threshold is not None and voxel[target] >= threshold:
            expected.append(target)
        else:
            left = [pair for pair in order if threshold is None or pair[1] != target]
            expected.append(min(left)[1])
    mask = segment(probs, threshold, target)
    assert mask.dtype == np.uint8 and mask.tolist() == expected
