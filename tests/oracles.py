"""Float64 NumPy re-statements of the formulae, written from the paper only.

Slow and literal on purpose: loops over examples and classes.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

EPS = 1e-7


def softmax(logits):
    z = np.asarray(logits, np.float64)
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def one_hot(labels, num_classes):
    labels = np.asarray(labels)
    if labels.ndim and labels.dtype.kind == "f":
        return labels.astype(np.float64)
    return (labels[..., None] == np.arange(num_classes)).astype(np.float64)


class Example(NamedTuple):
    """The included voxels of one example, every array (N, C), and its labels where they are."""

    z: np.ndarray
    p: np.ndarray
    not_p: np.ndarray
    log_p: np.ndarray
    y: np.ndarray
    keep: np.ndarray  # (*spatial)
    grid: np.ndarray  # (C, *spatial), 0 at voxels that are left out


def _examples(logits, labels, where):
    logits = np.asarray(logits, np.float64)
    c = logits.shape[-1]
    y = np.asarray(labels, np.float64) if np.ndim(labels) == logits.ndim else one_hot(labels, c)
    keep = np.ones(logits.shape[:-1], bool) if where is None else np.asarray(where, bool)
    for b in range(logits.shape[0]):
        z = logits[b].reshape(-1, c)[keep[b].ravel()]
        p = softmax(z)
        # 1 - p and log p would lose precision where p is close to 1 or 0.
        not_p = np.stack([np.delete(p, k, axis=-1).sum(-1) for k in range(c)], axis=-1)
        shifted = z - z.max(-1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
        grid = np.where(keep[b], np.moveaxis(y[b], -1, 0), 0)
        yield Example(z, p, not_p, log_p, y[b].reshape(-1, c)[keep[b].ravel()], keep[b], grid)


def _counts(x, c, g):
    p, not_p, y = x.p[:, c], x.not_p[:, c], x.y[:, c]
    return np.sum(p * y), np.sum((p * (1 - y)) ** g), np.sum((not_p * y) ** g)


def _dsc(x, g):
    scores = []
    for c in range(x.p.shape[1]):
        tp, fp, fn = _counts(x, c, g)
        scores.append((2 * tp + EPS) / (2 * tp + fp + fn + EPS))
    return np.mean(scores)


def _one_minus_ti(x, c, alpha, beta, g):
    tp, fp, fn = _counts(x, c, g)
    return 1 - (tp + EPS) / (tp + alpha * fp + beta * fn + EPS)


def _weighted_ce(x, weights):
    return -(weights * x.y * x.log_p).sum(-1).mean() if len(x.p) else 0.0


def _balanced(x):
    """Weights N / (C N_c) of the classes."""
    total = x.y.sum(0)
    return len(x.p) / (x.p.shape[1] * np.where(total > 0, total, 1))


def _laf(x, delta, gamma):
    weights = np.full(x.p.shape, float(delta))
    weights[:, 0] = (1 - delta) * x.not_p[:, 0] ** gamma
    return _weighted_ce(x, weights)


def _laft(x, delta, gamma, g):
    values = [_one_minus_ti(x, c, 1 - delta, delta, g) for c in range(x.p.shape[1])]
    return np.mean(values[:1] + [max(v, 0) ** (1 - gamma) for v in values[1:]])


def _combo(x, alpha, beta, g):
    weights = np.full(x.p.shape, float(beta))
    weights[:, 0] = 1 - beta
    return alpha * _weighted_ce(x, weights) - (1 - alpha) * _dsc(x, g)


def _tversky(x, alpha, beta, g, power=1.0):
    values = [_one_minus_ti(x, c, alpha, beta, g) for c in range(x.p.shape[1])]
    return np.mean([max(v, 0) ** power for v in values])


def _unified(x, weight, delta, gamma, g):
    return weight * _laf(x, delta, gamma) + (1 - weight) * _laft(x, delta, gamma, g)


def _ace(x, membership):
    """The mean over classes of the mean error of the bins that hold a hundredth of a voxel."""
    of_classes = []
    for p, y in zip(x.p.T, x.y.T, strict=True):
        w = membership(p)
        w = w[w.sum(1) >= 0.01]
        errors = abs(w @ p / w.sum(1) - w @ y / w.sum(1))
        of_classes.append(errors.mean() if len(errors) else 0.0)
    return np.mean(of_classes)


def _inside(p):
    """(20, N), 1 in the bin with p between its edges, up to rounding."""
    return np.eye(20)[:, np.digitize(p + 5e-7, np.arange(1, 20) / 20)]


def _triangle(p):
    """(20, N), 1 at the centre of a bin, 0 at the next centres; 1 beyond the outermost centres."""
    centres = (np.arange(20) + 0.5) / 20
    return np.stack([np.interp(p, centres, of_bin) for of_bin in np.eye(20)])


def _around(x, kernel, mode):
    """Means by a kernel over the included neighbours of each included voxel, (N, C)."""
    total = ndimage.convolve(x.keep.astype(float), kernel, mode=mode)[x.keep]
    sums = [ndimage.convolve(of_class, kernel, mode=mode)[x.keep] for of_class in x.grid]
    return np.stack(sums, axis=-1) / total[:, None]


def _svls(x):
    steps = np.stack(np.meshgrid(*[(-1, 0, 1)] * x.keep.ndim, indexing="ij"))
    kernel = np.exp(-(steps**2).sum(0) / 2)
    centre = (1,) * x.keep.ndim
    kernel[centre] = kernel.sum() - kernel[centre]
    return _weighted_ce(x._replace(y=_around(x, kernel, "nearest")), 1.0)


def _penalty(x, values):
    """The mean over voxels of the sum over the classes that are not excluded."""
    return (values * (x.z > -1e5)).sum(-1).mean() if len(x.z) else 0.0


def _nacl(x, weight):
    frequencies = _around(x, np.ones((3,) * x.keep.ndim), "constant")
    return _weighted_ce(x, 1.0) + weight * _penalty(x, abs(frequencies - x.z))


def _mbls(x, weight, margin):
    behind = x.z.max(-1, keepdims=True) - x.z if len(x.z) else x.z
    return _weighted_ce(x, 1.0) + weight * _penalty(x, np.maximum(0, behind - margin))


def _label_smoothing(x, alpha):
    return _weighted_ce(x._replace(y=x.y * (1 - alpha) + alpha / x.y.shape[1]), 1.0)


def _dml(x):
    values = []
    for p, not_p, y in zip(x.p.T, x.not_p.T, x.y.T, strict=True):
        apart = np.where(y == 1, not_p, abs(p - y)).sum()
        values.append(1 - (p.sum() + y.sum() - apart + EPS) / (p.sum() + y.sum() + EPS))
    return np.mean(values)


def _exp_ce(x, gamma):
    present = x.y.sum(0) > 0
    weights = np.sqrt(len(x.y) / x.y.sum(0)[present])
    # -log p would lose precision where p is close to 1.
    nll = np.where(x.p > 0.5, -np.log1p(-np.minimum(x.not_p, 0.75)), -x.log_p)[:, present]
    return (weights * x.y[:, present] * nll**gamma).sum(-1).mean() if len(x.y) else 0.0


LOSSES = {
    "ce": lambda x: _weighted_ce(x, 1.0),
    "weighted_ce": lambda x: _weighted_ce(x, _balanced(x)),
    "focal": lambda x, alpha=0.5, gamma=2: _weighted_ce(x, alpha * x.not_p**gamma),
    "dsc": lambda x: 1 - _dsc(x, 1),
    "dscpp": lambda x, gamma=2: 1 - _dsc(x, gamma),
    "tversky": lambda x, alpha=0.3, beta=0.7: _tversky(x, alpha, beta, 1),
    "tverskypp": lambda x, alpha=0.3, beta=0.7, gamma=2: _tversky(x, alpha, beta, gamma),
    "focal_tversky": lambda x, alpha=0.3, beta=0.7, gamma=4 / 3: _tversky(
        x, alpha, beta, 1, 1 / gamma
    ),
    "focal_tverskypp": lambda x, alpha=0.3, beta=0.7, gamma=4 / 3, gamma_pp=2: _tversky(
        x, alpha, beta, gamma_pp, 1 / gamma
    ),
    "combo": lambda x, alpha=0.5, beta=0.5: _combo(x, alpha, beta, 1),
    "combopp": lambda x, alpha=0.5, beta=0.5, gamma=2: _combo(x, alpha, beta, gamma),
    "asymmetric_focal": lambda x, delta=0.6, gamma=0.5: _laf(x, delta, gamma),
    "asymmetric_focal_tversky": lambda x, delta=0.6, gamma=0.5: _laft(x, delta, gamma, 1),
    "asymmetric_focal_tverskypp": lambda x, delta=0.6, gamma=0.5, gamma_pp=2: _laft(
        x, delta, gamma, gamma_pp
    ),
    "unified_focal": lambda x, weight=0.5, delta=0.6, gamma=0.5: _unified(
        x, weight, delta, gamma, 1
    ),
    "unified_focalpp": lambda x, weight=0.5, delta=0.6, gamma=0.5, gamma_pp=2: _unified(
        x, weight, delta, gamma, gamma_pp
    ),
    "dsc_ce": lambda x: 1 - _dsc(x, 1) + _weighted_ce(x, 1.0),
    "dscpp_ce": lambda x, gamma=2: 1 - _dsc(x, gamma) + _weighted_ce(x, 1.0),
    "l1_ace": lambda x: _ace(x, _inside),
    "soft_l1_ace": lambda x: _ace(x, _triangle),
    "nacl": lambda x, weight=0.1: _nacl(x, weight),
    "mbls": lambda x, weight=0.1, margin=10: _mbls(x, weight, margin),
    "svls": _svls,
    "label_smoothing": lambda x, alpha=0.1: _label_smoothing(x, alpha),
    "dml": _dml,
    "exp_ce": lambda x, gamma=0.3: _exp_ce(x, gamma),
}


def loss(name, logits, labels, where=None, **hyper):
    """The named loss in float64, (B,)."""
    return np.array([LOSSES[name](x, **hyper) for x in _examples(logits, labels, where)])


def numerical_gradient(function, x, step=1e-5):
    """Central differences of the scalar function(x) in every entry of x."""
    x = np.asarray(x, np.float64)
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        shifted = x.copy()
        shifted[index] += step
        above = function(shifted)
        shifted[index] -= 2 * step
        gradient[index] = (above - function(shifted)) / (2 * step)
    return gradient


def resize(array, size):
    """Linear interpolation at half-pixel centres of the leading axes, clamped at the border."""
    array = np.asarray(array, np.float64)
    for axis, new in enumerate(size):
        old = array.shape[axis]
        position = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        low = np.floor(position).astype(int)
        weight = np.expand_dims(position - low, tuple(range(1, array.ndim)))
        rows = np.moveaxis(array, axis, 0)
        rows = (1 - weight) * rows[low] + weight * rows[np.minimum(low + 1, old - 1)]
        array = np.moveaxis(rows, 0, axis)
    return array


def resize_label(label, size, num_classes):
    """Every class interpolated as in `resize`, in whole numbers so that ties are exact."""
    shares = np.stack([np.asarray(label) == c for c in range(num_classes)]).astype(np.int64)
    for axis, new in enumerate(size, start=1):
        old = shares.shape[axis]
        # Positions and weights in units of 1 / (2 new).
        position = np.clip((2 * np.arange(new) + 1) * old - new, 0, 2 * new * (old - 1))
        low, weight = np.divmod(position, 2 * new)
        weights = np.zeros((new, old), np.int64)
        np.add.at(weights, (np.arange(new), low), 2 * new - weight)
        np.add.at(weights, (np.arange(new), np.minimum(low + 1, old - 1)), weight)
        shares = np.moveaxis(np.tensordot(weights, shares, (1, axis)), 0, axis)
    return shares.argmax(0)


def window_weights(window, weighting):
    """Weights of the voxels of a window, by their squared distance from its centre."""
    exponent = np.zeros(window)
    for voxel in np.ndindex(*window):
        exponent[voxel] = sum(
            ((i - (n - 1) / 2) / (n / 8)) ** 2 / 2 for i, n in zip(voxel, window, strict=True)
        )
    return {"uniform": np.ones(window), "gaussian": np.exp(-exponent)}[weighting]


def window_starts(length, window, overlap):
    """Window starts from 0, step by step; the last window is aligned to the border."""
    starts = [0]
    while starts[-1] + window < length:
        starts.append(min(starts[-1] + window - overlap, length - window))
    return starts


def sliding_window(forward, volume, window, overlap, weighting):
    """The weighted mean over windows, as the quotient of two sums over the volume."""
    volume = np.asarray(volume, np.float64)
    inside = []
    for axis, n in enumerate(window):
        length = volume.shape[axis]
        extra = max(0, n - length)
        margins = [(0, 0)] * volume.ndim
        margins[axis] = (extra // 2, extra - extra // 2)
        volume = np.pad(volume, margins, constant_values=volume.min())
        inside.append(slice(extra // 2, extra // 2 + length))
    spatial = volume.shape[:-1]
    weights = window_weights(window, weighting)[..., None]
    axes = [window_starts(*axis) for axis in zip(spatial, window, overlap, strict=True)]
    total, norm = 0.0, np.zeros((*spatial, 1))
    for start in np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(window)):
        place = tuple(slice(s, s + n) for s, n in zip(start, window, strict=True))
        probs = forward(volume[place][None])[0]
        if np.ndim(total) == 0:
            total = np.zeros((*spatial, probs.shape[-1]))
        total[place] += weights * probs
        norm[place] += weights
    return (total / norm)[tuple(inside)]


def mirrored(forward, images):
    """The mean over every choice of axes to mirror, axis by axis."""
    if images.ndim == 4:
        flips = [(i, j) for i in (1, -1) for j in (1, -1)]
    else:
        flips = [(i, j, k) for i in (1, -1) for j in (1, -1) for k in (1, -1)]
    outputs = []
    for steps in flips:
        back = (slice(None), *(slice(None, None, step) for step in steps))
        outputs.append(np.asarray(forward(images[back]), np.float64)[back])
    return np.mean(outputs, axis=0)
