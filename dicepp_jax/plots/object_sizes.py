"""The gradient of losses against the size of the object."""

from collections.abc import Callable, Mapping, Sequence

import jax
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from dicepp_jax.gradients import Norms, variation
from dicepp_jax.plots.canvas import DPI
from dicepp_jax.plots.styles import line_styles

FOREMOST = ("dsc", "dscpp")
"""Drawn thick, above the others."""

PANELS: dict[str, Callable[[Norms], jax.Array]] = {
    "norm of the gradient": lambda norms: norms.total.mean(-1),
    "object voxel / background voxel": lambda norms: (
        norms.object.mean(-1) / norms.background.mean(-1)
    ),
    "variation between draws": lambda norms: variation(norms.total),
}
"""A row of panels each, from `Norms` of a state to what is plotted."""


def gradients_by_size(found: Mapping[str, Mapping[str, Norms]], sizes: Sequence[int]) -> Figure:
    """Plot the norm of the gradient, where it acts, and how it varies, by the size of the object.

    A line is a loss; DSC and DSC++ are thick. The second row is the mean norm at a voxel of the
    object, divided by that at a voxel of the background; the third is the coefficient of variation.

    Args:
      found: as returned by `gradients.norms_by_size`.
      sizes: the sizes given to it.

    Returns:
      A figure with a column per state of training, all axes logarithmic.
    """
    states = list(next(iter(found.values())))
    figure, axes = plt.subplots(
        len(PANELS),
        len(states),
        figsize=(3.4 * len(states) + 2.2, 2.9 * len(PANELS)),
        dpi=DPI,
        squeeze=False,
        sharex=True,
        sharey="row",
        layout="constrained",
    )
    styles = line_styles(found)
    for row, (name, value) in zip(axes, PANELS.items(), strict=True):
        row[0].set_ylabel(name)
        for place, state in zip(row, states, strict=True):
            for loss, of_states in found.items():
                thick = {"linewidth": 2.6, "zorder": 3} if loss in FOREMOST else {"linewidth": 0.9}
                shown = np.asarray(value(of_states[state]))
                place.plot(sizes, shown, label=loss, **styles[loss] | {"marker": ""} | thick)
            place.set(xscale="log", yscale="log")
            place.grid(alpha=0.3)
    for place, state in zip(axes[0], states, strict=True):
        place.set_title(state)
    for place in axes[-1]:
        place.set_xlabel("voxels of the object")
    figure.legend(handles=axes[0, 0].lines, loc="outside right upper", fontsize=8, handlelength=3)
    return figure
