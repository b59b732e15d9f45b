"""Colour, line style and marker of each method, the same in every figure."""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex

COLOURS = {
    "ce": "#e69f00",
    "focal": "#56b4e9",
    "dsc": "#d55e00",
    "dscpp": "#0072b2",
    "tversky": "#009e73",
    "focal_tversky": "#cc79a7",
    "combo": "#8c6d31",
    "unified_focal": "#404040",
    "dsc_ce": "#7b4fa3",
}
"""Colours by loss, distinguishable with colour blindness. A ++ loss that is missing here has the
colour of the original loss."""
KINDS = {
    "temperature": (":", "^"),
    "platt": (":", "v"),
    "vector": (":", "<"),
    "auxiliary": (":", ">"),
    "ensemble": ("-.", "s"),
    "mc": ("-.", "P"),
    "then": ("-.", "D"),
    "dropout": ("--", "X"),
}
"""Dashes and markers of what is made of a loss by other means, by the word after the comma."""


def line_styles(methods: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour, line style and marker by method, independent of which other methods are plotted.

    A loss and its ++ variant share a colour, except that DSC and DSC++ have different ones. ++
    losses have solid lines and filled markers, other losses dashed lines and empty markers. What is
    made of them by other means, named after the comma as in "DSC, ensemble of 3" or "DSC, then CE",
    has line styles and markers of its own.

    Args:
      methods: names such as "focal_tverskypp", "Focal Tversky++" or "dsc, temperature". Names that
        contain no loss of the paper, such as the settings of a grid, are coloured from dark to
        light in the order given.

    Returns:
      Keyword arguments for `Axes.plot`, by method.
    """
    losses = {method: _loss(method) for method in methods}
    strangers = [method for method, loss in losses.items() if loss not in COLOURS]
    shades = colormaps["viridis"](np.linspace(0, 0.9, len(strangers)))
    colours = {method: to_hex(shade) for method, shade in zip(strangers, shades, strict=True)}
    styles = {}
    for method, loss in losses.items():
        colour = colours.get(method) or COLOURS[loss]
        full = "++" in method or "pp" in method or method in strangers
        kind = re.match(r".*, (\w+)", method)
        line, marker = KINDS.get(kind[1].lower() if kind else "", ("-" if full else "--", "o"))
        styles[method] = {
            "color": colour,
            "linestyle": line,
            "marker": marker,
            "markerfacecolor": colour if full else "white",
        }
    return styles


def _loss(method: str) -> str:
    """The key of `COLOURS` for a name, such as "focal_tversky" for "Focal Tversky++"."""
    words = method.lower().replace("++", "pp").partition(",")[0].split()
    loss = "_".join(word for word in words if word != "+" and "=" not in word)
    return loss if loss in COLOURS else loss.replace("pp", "")
