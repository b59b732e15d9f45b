"""Float64 NumPy re-statements of the formulae, written from the paper and nothing else.

Slow and literal on purpose: loops over examples and classes, probabilities instead of logarithms.
"""

import numpy as np

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


def _examples(logits, labels, where):
    """Per example: p (N, C) and y (N, C) of the voxels that count."""
    logits = np.asarray(logits, np.float64)
    c = logits.shape[-1]
    y = np.asarray(labels, np.float64) if np.ndim(labels) == logits.ndim else one_hot(labels, c)
    keep = np.ones(logits.shape[:-1], bool) if where is None else np.asarray(where, bool)
    for b in range(logits.shape[0]):
        k = keep[b].ravel()
        yield softmax(logits[b]).reshape(-1, c)[k], y[b].reshape(-1, c)[k]


def _counts(p, y, c, g):
    tp = np.sum(p[:, c] * y[:, c])
    fp = np.sum((p[:, c] * (1 - y[:, c])) ** g)
    fn = np.sum(((1 - p[:, c]) * y[:, c]) ** g)
    return tp, fp, fn


def _dsc(p, y, g):
    scores = []
    for c in range(p.shape[1]):
        tp, fp, fn = _counts(p, y, c, g)
        scores.append((2 * tp + EPS) / (2 * tp + fp + fn + EPS))
    return np.mean(scores)


def _one_minus_ti(p, y, c, alpha, beta, g):
    tp, fp, fn = _counts(p, y, c, g)
    return 1 - (tp + EPS) / (tp + alpha * fp + beta * fn + EPS)


def _mean(x):
    return float(np.mean(x)) if len(x) else 0.0


def _weighted_ce(p, y, weights):
    return _mean(-(weights * y * np.log(np.maximum(p, 1e-300))).sum(-1))


def _laf(p, y, delta, gamma):
    weights = np.full(p.shape, float(delta))
    weights[:, 0] = (1 - delta) * (1 - p[:, 0]) ** gamma
    return _weighted_ce(p, y, weights)


def _laft(p, y, delta, gamma, g):
    values = [_one_minus_ti(p, y, c, 1 - delta, delta, g) for c in range(p.shape[1])]
    return np.mean(values[:1] + [max(v, 0) ** (1 - gamma) for v in values[1:]])


def _combo(p, y, alpha, beta, g):
    weights = np.full(p.shape, float(beta))
    weights[:, 0] = 1 - beta
    return alpha * _weighted_ce(p, y, weights) - (1 - alpha) * _dsc(p, y, g)


def _tversky(p, y, alpha, beta, g, power=1.0):
    values = [_one_minus_ti(p, y, c, alpha, beta, g) for c in range(p.shape[1])]
    return np.mean([max(v, 0) ** power for v in values])


def _unified(p, y, weight, delta, gamma, g):
    return weight * _laf(p, y, delta, gamma) + (1 - weight) * _laft(p, y, delta, gamma, g)


LOSSES = {
    "ce": lambda p, y: _weighted_ce(p, y, 1.0),
    "focal": lambda p, y, alpha=0.5, gamma=2: _weighted_ce(p, y, alpha * (1 - p) ** gamma),
    "dsc": lambda p, y: 1 - _dsc(p, y, 1),
    "dscpp": lambda p, y, gamma=2: 1 - _dsc(p, y, gamma),
    "tversky": lambda p, y, alpha=0.3, beta=0.7: _tversky(p, y, alpha, beta, 1),
    "tverskypp": lambda p, y, alpha=0.3, beta=0.7, gamma=2: _tversky(p, y, alpha, beta, gamma),
    "focal_tversky": lambda p, y, alpha=0.3, beta=0.7, gamma=4 / 3: _tversky(
        p, y, alpha, beta, 1, 1 / gamma
    ),
    "focal_tverskypp": lambda p, y, alpha=0.3, beta=0.7, gamma=4 / 3, gamma_pp=2: _tversky(
        p, y, alpha, beta, gamma_pp, 1 / gamma
    ),
    "combo": lambda p, y, alpha=0.5, beta=0.5: _combo(p, y, alpha, beta, 1),
    "combopp": lambda p, y, alpha=0.5, beta=0.5, gamma=2: _combo(p, y, alpha, beta, gamma),
    "asymmetric_focal": lambda p, y, delta=0.6, gamma=0.5: _laf(p, y, delta, gamma),
    "asymmetric_focal_tversky": lambda p, y, delta=0.6, gamma=0.5: _laft(p, y, delta, gamma, 1),
    "asymmetric_focal_tverskypp": lambda p, y, delta=0.6, gamma=0.5, gamma_pp=2: _laft(
        p, y, delta, gamma, gamma_pp
    ),
    "unified_focal": lambda p, y, weight=0.5, delta=0.6, gamma=0.5: _unified(
        p, y, weight, delta, gamma, 1
    ),
    "unified_focalpp": lambda p, y, weight=0.5, delta=0.6, gamma=0.5, gamma_pp=2: _unified(
        p, y, weight, delta, gamma, gamma_pp
    ),
    "dsc_ce": lambda p, y: 1 - _dsc(p, y, 1) + _weighted_ce(p, y, 1.0),
    "dscpp_ce": lambda p, y, gamma=2: 1 - _dsc(p, y, gamma) + _weighted_ce(p, y, 1.0),
}


def loss(name, logits, labels, where=None, **hyper):
    """The named loss in float64, (B,)."""
    pairs = _examples(logits, labels, where)
    return np.array([LOSSES[name](p, y, **hyper) for p, y in pairs])


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
    """Linear interpolation at half-pixel centres of the leading axes, the border held beyond."""
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
