"""The card of a prepared data set: its facts, its split and a contact sheet in a directory."""

from pathlib import Path

import numpy as np

from dicepp_jax import data
from dicepp_jax.atomic import write_text
from dicepp_jax.data.card import card, findings
from dicepp_jax.plots import canvas
from dicepp_jax.plots.cases import Sample, contact_sheet
from experiments.workdirs import directory

SHOWN = 24
"""Cases on the contact sheet, spread evenly over the set."""


def write_card(loaded: data.Loaded, workdir: Path) -> str:
    """Write the card of a data set.

    Args:
      loaded: the data set.
      workdir: the directory of `card.txt`, `split.json` and `contact_sheet.png`.

    Returns:
      What to print: the card, with examples where `card.txt` names all cases.
    """
    ids = {part: list(subset.ids) for part, subset in loaded.splits.items()}
    lines = card(loaded.spec, loaded.facts, ids, str(loaded.path))
    odd = findings(loaded.facts, ids)
    workdir.mkdir(parents=True, exist_ok=True)
    nothing = [] if odd else ["  odd: nothing"]
    in_full = [f"  {finding.line(len(finding.where))}" for finding in odd] or nothing
    # Notes on a user's own data set have been printed before it was prepared.
    found = [f"  detected: {line}" for line in loaded.notes]
    write_text(workdir / "card.txt", "\n".join([*lines, *in_full, *found]) + "\n")
    directory.write_split(workdir, loaded)
    sheet = workdir / "contact_sheet.png"
    canvas.save(contact_sheet(_shown(loaded), loaded.spec.classes), sheet)
    short = [f"  {finding.line()}" for finding in odd] or nothing
    written = [f"  all of them: {workdir / 'card.txt'}", f"  contact sheet: {sheet}"]
    return "\n".join([*lines, *short, *written[short == in_full :]])


def _shown(loaded: data.Loaded) -> list[Sample]:
    """Cases spread evenly over all splits."""
    splits = loaded.splits
    everywhere = [(part, index) for part, subset in splits.items() for index in range(len(subset))]
    chosen = np.linspace(0, len(everywhere) - 1, min(SHOWN, len(everywhere))).round().astype(int)
    samples = []
    for part, index in (everywhere[i] for i in chosen):
        case, name = splits[part][index], splits[part].ids[index]
        samples.append(Sample(f"{name}, {part}", case["image"], case["label"]))
    return samples
