"""What the line of a method looks like, in every figure."""

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
"""Of lines by loss, for eyes of all kinds; a ++ form that is not here has that of its original."""
KINDS = {"temperature": (":", "^"), "ensemble": ("-.", "s")}
"""Dashes and markers of scores derived from runs."""


def line_styles(methods: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour, dashes and markers of lines by method, the same whatever the other methods are.

    A loss and its ++ form share a colour, but DSC and DSC++ have one each; ++ forms are solid with
    full markers, other losses dashed with empty ones. Derived scores, by the word after
    the comma in "DSC, ensemble of 3", have their own dashes and markers.

    Args:
      methods: names, as "focal_tverskypp", "Focal Tversky++" or "dsc, temperature". Those that name
        no loss of the paper, as the settings of a grid, are coloured from dark to light in their
        order.

    Returns:
      Arguments of `Axes.plot`.
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
        line, marker = KINDS.get(kind[1] if kind else "", ("-" if full else "--", "o"))
        styles[method] = {
            "color": colour,
            "linestyle": line,
            "marker": marker,
            "markerfacecolor": colour if full else "white",
        }
    return styles


def _loss(method: str) -> str:
    """The key of `COLOURS` that a name stands for: "focal_tversky" for "Focal Tversky++"."""
    words = method.lower().replace("++", "pp").partition(",")[0].split()
    loss = "_".join(word for word in words if word != "+" and "=" not in word)
    return loss if loss in COLOURS else loss.replace("pp", "")
