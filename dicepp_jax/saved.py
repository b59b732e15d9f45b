"""Save a trained network to files that load without the code and libraries used in training.

`save_model` writes three files. `network.jaxexport` is the network as exported by `jax.export`,
StableHLO for CPU, CUDA and TPU: a function from its parameters by name and float32 images
`(b, *size, channels)`, for any b, to logits `(b, *size, C)`. It returns logits since a softmax, a
temperature and a loss are all applied to them. `params.npz` contains the parameters. `model.json`
describes the inputs and outputs, the origin of the network, and the checksums of the other two.

`load_model` imports jax, numpy and scipy, but neither flax nor anything that reads data sets. It
runs no Python of the files: the network is a program of StableHLO operations on arrays, which XLA
compiles, and is refused if it calls anything else, such as functions of the host.
"""

import dataclasses
import hashlib
import io
import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax import export

from dicepp_jax import __version__, preprocess
from dicepp_jax.atomic import write_atomically
from dicepp_jax.inference import DEFAULT_WINDOWS, Predict, Windows, make_predict, tempered
from dicepp_jax.spec import Spec
from dicepp_jax.wording import by

if TYPE_CHECKING:
    from dicepp_jax.train import ApplyFn

FOLDER = "model"
NETWORK, PARAMS, ABOUT = "network.jaxexport", "params.npz", "model.json"
KIND, FORMAT = "dicepp_jax model", 1
PLATFORMS = ("cpu", "cuda", "tpu")

CALL = re.compile(r"custom_call(?! @shape_assertion\()[^({]*")
"""A call to what is not StableHLO. `jax.export` makes one, which checks the size of the batch."""

FACTS = (
    *("name", "title", "classes", "channels", "dtype", "spacing", "intensity_range"),
    *("per_channel", "patches", "homepage", "licence", "citation"),
)
"""The fields saved of the `Spec` of the data set that the network was trained on."""

SETTINGS = Windows._fields
"""The keys of `model.json` that store the `Windows` for `make_predict`."""


@dataclasses.dataclass(frozen=True, repr=False)
class Model:
    """A saved network, ready to predict.

    Attributes:
      spec: description of the data set it was trained on; its `size` is that of the network.
      about: the contents of `model.json`.
      path: path of that file.
    """

    spec: Spec
    about: Mapping[str, Any]
    path: Path
    _predict: Predict

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, the background first."""
        return self.spec.classes

    def predict(
        self,
        image: np.ndarray,
        spacing: tuple[float, ...] | None = None,
        native: tuple[int, ...] | None = None,
    ) -> np.ndarray:
        """Predict the class probabilities of a raw image or volume.

        The image is resampled to the spacing of the model if it has one, normalised, and resized to
        the input size of the network or predicted window by window; the softmax is resized back
        linearly.

        Args:
          image: `(H, W, channels)` or `(D, H, W, channels)` as read from a file, any real dtype;
            the channel axis may be omitted if there is only one channel. For a colour model, a grey
            image is repeated to three equal channels.
          spacing: voxel spacing of a volume in mm, along its axes; for models that have a spacing.
          native: spatial size of the result, None for the size of the image.

        Returns:
          `(*native, C)` float32 probabilities.

        Raises:
          ValueError: if the image does not match the model, or a required spacing is missing.
        """
        image = self._with_channels(np.asarray(image))
        native = tuple(image.shape[:-1] if native is None else native)
        if self.spec.spacing is not None:
            image = self._resampled(image, spacing, self.spec.spacing)
        return self._predict(image, native)

    def tempered(self, temperature: float) -> "Model":
        """The model with temperature scaling applied, see `inference.tempered`."""
        about = {**self.about, "temperature": temperature}
        predict = tempered(self._predict, temperature)
        return dataclasses.replace(self, about=about, _predict=predict)

    def _with_channels(self, image: np.ndarray) -> np.ndarray:
        """The image with a channel axis, of as many channels as the network expects."""
        spec = self.spec
        if image.ndim == spec.ndim:
            image = image[..., None]
        if image.ndim == spec.ndim + 1 and image.shape[-1] == 1 and not spec.per_channel:
            image = np.repeat(image, spec.channels, axis=-1)
        if image.ndim != spec.ndim + 1 or image.shape[-1] != spec.channels:
            axes = "height, width" if spec.ndim == 2 else "depth, height, width"
            raise ValueError(
                f"the image has shape {image.shape}, but the model of {spec.title} expects "
                f"({axes}, {spec.channels} channels); move the axes or use another model"
            )
        if image.dtype.kind not in "buif" or 0 in image.shape:
            raise ValueError(
                f"the image is {image.dtype} of shape {image.shape}, expected a non-empty array of "
                "real numbers; pass the array of one image"
            )
        if image.dtype.kind == "f" and not np.isfinite(image).all():
            unusable = image.size - np.count_nonzero(np.isfinite(image))
            raise ValueError(
                f"{unusable} of the {image.size} values of the image are NaN or infinite; replace "
                "them by a finite number, such as the value of the background"
            )
        return image

    def _resampled(
        self, image: np.ndarray, spacing: tuple[float, ...] | None, target: tuple[float, ...]
    ) -> np.ndarray:
        if spacing is None:
            raise ValueError(
                f"the model of {self.spec.title} works at {by(target)} mm; pass the spacing of the "
                f"volume, in mm along its axes, or spacing={target} if it already has that spacing"
            )
        if len(spacing) != len(target) or not all(0 < step < np.inf for step in spacing):
            raise ValueError(
                f"spacing is {tuple(spacing)}, expected {len(target)} positive lengths in mm, one "
                "per axis of the volume"
            )
        return preprocess.resample(image, tuple(spacing), target)


def segment(
    probs: np.ndarray, threshold: float | None = None, target: int | None = None
) -> np.ndarray:
    """Convert probabilities to a label map: the most likely class, or one class above a threshold.

    With a threshold T, a voxel is assigned to the target class where p >= T, and to the most likely
    of the other classes elsewhere. Ties go to the class of the lowest index.

    Args:
      probs: `(*spatial, C)` class probabilities.
      threshold: T, None for the most likely class.
      target: index of the class that the threshold applies to; the default for two classes is 1.

    Returns:
      `(*spatial)` classes, uint8.

    Raises:
      ValueError: if there is a threshold and the target class is missing or invalid, or a
        probability is NaN, which has no most likely class.

    Example:
      >>> probs = np.array([[0.6, 0.1, 0.3], [0.3, 0.1, 0.6], [0.1, 0.7, 0.2]])
      >>> segment(probs).tolist(), segment(probs, 0.2, target=2).tolist()
      ([0, 2, 1], [2, 2, 2])
      >>> segment(probs, 0.65, target=2).tolist()
      [0, 0, 1]

    Reference:
      DSC++ paper, Eq. 10, with the inequality as stated in its text.
    """
    # One class after another: the int64 argmax of a whole scan is as large as the probabilities.
    probs = np.asarray(probs)
    if not probs.ndim or probs.shape[-1] < 2 or probs.dtype.kind != "f":
        raise ValueError(
            f"probs are {probs.dtype} of shape {probs.shape}, expected floating point of shape "
            "(*spatial, C) with C >= 2 classes"
        )
    num_classes = probs.shape[-1]
    if threshold is not None:
        target = 1 if target is None and num_classes == 2 else target
        if target not in range(num_classes):
            raise ValueError(
                f"target is {target!r}; a threshold applies to one class, given by its index, 1 to "
                f"{num_classes - 1}"
            )
    highest = np.full(probs.shape[:-1], -np.inf, probs.dtype)
    mask = np.zeros(probs.shape[:-1], np.uint8)
    for index in range(num_classes):
        if threshold is None or index != target:
            np.copyto(mask, index, where=probs[..., index] > highest)
            np.maximum(highest, probs[..., index], out=highest)
    # The largest is NaN if one is.
    if highest.size and np.isnan(highest.max()):
        raise ValueError("probs are NaN, which has no most likely class; check image and network")
    if threshold is not None and target is not None:
        np.copyto(mask, target, where=probs[..., target] >= threshold)
    return mask


def save_model(
    workdir: str | Path,
    apply: "ApplyFn",
    params: Any,
    spec: Spec,
    size: tuple[int, ...],
    *,
    windows: Windows = DEFAULT_WINDOWS,
    epoch: int,
    val_loss: float,
    config: Mapping[str, Any],
) -> Path:
    """Save a network so that `load_model` can predict with it.

    Args:
      workdir: directory of the run; the files are written to its folder `model`, created if needed.
      apply: `(params, images) -> logits`.
      params: parameters of the network, any pytree of arrays.
      spec: description of the data set it was trained on.
      size: spatial input size of the network.
      windows: how the loaded model applies the network.
      epoch: zero-based number of the epoch of the parameters.
      val_loss: validation loss of that epoch.
      config: config of the run, saved for reference.

    Returns:
      The folder of the files.
    """
    size = tuple(size)
    leaves, tree = jax.tree_util.tree_flatten_with_path(params)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    arrays = {name: np.asarray(leaf) for name, (_, leaf) in zip(names, leaves, strict=True)}

    def logits(arrays: dict[str, jax.Array], images: jax.Array) -> jax.Array:
        return apply(jax.tree.unflatten(tree, [arrays[name] for name in names]), images)

    packed = io.BytesIO()
    np.savez(packed, **arrays)  # type: ignore[arg-type]
    files = {NETWORK: _export(logits, arrays, (*size, spec.channels)), PARAMS: packed.getvalue()}
    about = {
        "kind": KIND,
        "format": FORMAT,
        **{fact: getattr(spec, fact) for fact in FACTS},
        "size": size,
        **windows._asdict(),
        "preprocessing": _preprocessing(spec, size),
        "input": f"float32 (b, {', '.join(map(str, size))}, {spec.channels}), and {PARAMS}",
        "output": f"float32 (b, {', '.join(map(str, size))}, {len(spec.classes)}) logits",
        "platforms": PLATFORMS,
        "epoch": epoch,
        "val_loss": val_loss,
        "versions": {"dicepp_jax": __version__, "jax": jax.__version__, "numpy": np.__version__},
        "config": config,
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    folder = Path(workdir) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    # model.json is written last, as its checksums make the other files valid.
    files[ABOUT] = (json.dumps(about, indent=2) + "\n").encode()
    for name, content in files.items():
        write_atomically(folder / name, partial(Path.write_bytes, data=content))
    return folder


def _export(apply: "ApplyFn", arrays: dict[str, np.ndarray], shape: tuple[int, ...]) -> bytes:
    (batch,) = export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((batch, *shape), np.float32)
    exported = export.export(jax.jit(apply), platforms=PLATFORMS)(arrays, images)
    return bytes(exported.serialize())


def _preprocessing(spec: Spec, size: tuple[int, ...]) -> list[str]:
    """The preprocessing in words, for users of the exported network alone."""
    steps = []
    if spec.spacing:
        steps.append(f"resample linearly to {by(spec.spacing)} mm")
    if not spec.patches:
        steps.append(f"resize linearly to {by(size)}")
    if spec.intensity_range:
        steps.append("clip to {:g} to {:g}".format(*spec.intensity_range))
    each = "each channel" if spec.per_channel else "all channels together"
    steps.append(f"subtract the mean and divide by the standard deviation of {each}")
    if spec.patches:
        steps.append(f"pad with the minimum, cut into windows of {by(size)}")
    return steps


def load_model(workdir: str | Path) -> Model:
    """Load a network saved by `save_model`.

    Args:
      workdir: directory of a run, or its folder `model`, which may have been moved elsewhere.

    Returns:
      The `Model`.

    Raises:
      FileNotFoundError: if there is no model, or one of its files is missing.
      ValueError: if a file has another format or is corrupt, or the network calls anything but
        StableHLO operations.

    Example:
      >>> import tempfile
      >>> from dicepp_jax.data.specs import PHANTOM
      >>> def apply(params, images):
      ...     return images @ params["kernel"]
      >>> kernel = np.zeros((3, 2), np.float32)
      >>> with tempfile.TemporaryDirectory() as run:
      ...     _ = save_model(
      ...         run, apply, {"kernel": kernel}, PHANTOM, (8, 8), epoch=0, val_loss=1.0, config={}
      ...     )
      ...     model = load_model(run)
      >>> image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
      >>> model.classes, model.predict(image).shape, model.predict(image)[0, 0].tolist()
      (('background', 'vessel'), (9, 7, 2), [0.5, 0.5])
    """
    folder = Path(workdir).expanduser()
    if not (folder / ABOUT).exists():
        folder /= FOLDER
    if not (folder / ABOUT).exists():
        runs = sorted(path.parents[1].name for path in folder.parent.glob(f"*/{FOLDER}/{ABOUT}"))
        there = f", or one of {', '.join(runs)} in it" if runs else ""
        raise FileNotFoundError(
            f"there is no {folder / ABOUT}; python -m experiments.predict --workdir={workdir} "
            f"saves it when it first predicts. Give the directory of such a run{there}"
        )
    about = _read_about(folder / ABOUT)
    network, packed = (_read(folder / name, about["sha256"][name]) for name in (NETWORK, PARAMS))
    exported = _deserialize(network, about)
    params = _arrays(folder / PARAMS, packed)
    facts = {fact: _as_tuple(about[fact]) for fact in FACTS}
    try:
        spec = Spec(**facts, size=tuple(about["size"]), counts=())
    except (ValueError, TypeError) as error:
        raise ValueError(f"{folder / ABOUT} cannot be used ({error}); {_REMEDY}") from error
    windows = Windows(**{setting: _as_tuple(about[setting]) for setting in SETTINGS})
    predict = make_predict(exported.call, params, spec, spec.size, windows=windows)
    return Model(spec, about, folder / ABOUT, predict)


def _deserialize(network: bytes, about: Mapping[str, Any]) -> export.Exported:
    try:
        exported = export.deserialize(bytearray(network))
        calls = CALL.findall(exported.mlir_module())
    except Exception as error:  # jax raises many types of exceptions for unknown formats.
        raise ValueError(
            f"jax {jax.__version__} cannot read the {NETWORK} that jax {about['versions']['jax']} "
            f"wrote ({error!r}); install that version, or let experiments.predict save it again"
        ) from error
    if calls:
        raise ValueError(
            f"{NETWORK} is not only arithmetic, but has a {calls[0].strip()}, which could run any "
            "code; use a model from someone you trust"
        )
    return exported


def _arrays(path: Path, packed: bytes) -> dict[str, np.ndarray]:
    try:
        with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
            return dict(arrays)
    except Exception as error:  # zipfile and NumPy raise many types; objects are a ValueError.
        raise ValueError(f"{path} cannot be read as arrays ({error}); {_REMEDY}") from error


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _read_about(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(path.read_text())
        found = about["kind"], about["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} does not describe a model ({error!r}); {_REMEDY}") from error
    if found != (KIND, FORMAT):
        raise ValueError(
            f"{path} has kind {found[0]!r} and format {found[1]}, but dicepp_jax {__version__} "
            f"reads kind {KIND!r} and format {FORMAT}; install the version that saved it "
            f"({about.get('versions', {}).get('dicepp_jax', 'not recorded')}), or save it again"
        )
    missing = {*FACTS, *SETTINGS, "size", "versions", "sha256"} - set(about)
    if missing:
        raise ValueError(f"{path} has no {', '.join(sorted(missing))}; {_REMEDY}")
    return about


_REMEDY = (
    "copy the folder again, or delete it and let experiments.predict save it again from its run"
)


def _read(path: Path, checksum: str) -> bytes:
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}, which {ABOUT} refers to; {_REMEDY}")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != checksum:
        raise ValueError(f"the checksum of {path} is not the one in {ABOUT}; {_REMEDY}")
    return content
