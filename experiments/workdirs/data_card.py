"""The card of a prepared data set: its facts, its split and a contact sheet in a directory."""

from pathlib import Path

import numpy as np

from dicepp_jax import data
from dicepp_jax.atomic import write_text
from dicepp_jax.data.card import anomalies, card
from dicepp_jax.plots import canvas
from dicepp_jax.plots.cases import Sample, contact_sheet
from experiments.workdirs import directory

SHOWN = 24
"""Cases on the contact sheet, spread evenly over the set."""
PRINTED = 20
"""Number of anomalies printed; `card.txt` has all of them."""


def write_card(loaded: data.Loaded, workdir: Path) -> str:
    """Write the card of a data set.

    Args:
      loaded: the data set.
      workdir: the directory of `card.txt`, `split.json` and `contact_sheet.png`.

    Returns:
      What to print: the card, with at most `PRINTED` anomalies.
    """
    ids = {part: list(subset.ids) for part, subset in loaded.splits.items()}
    lines = card(loaded.spec, loaded.facts, ids, str(loaded.path))
    odd = anomalies(loaded.facts, ids)
    workdir.mkdir(parents=True, exist_ok=True)
    listed = [f"  odd: {line}" for line in odd] or ["  odd: nothing"]
    # What was detected in a user's own set has been printed before it was prepared.
    write_text(workdir / "card.txt", "\n".join([*loaded.notes, *lines, *listed]) + "\n")
    directory.write_split(workdir, loaded)
    sheet = workdir / "contact_sheet.png"
    canvas.save(contact_sheet(_shown(loaded), loaded.spec.classes), sheet)
    if len(listed) > PRINTED:
        listed = [*listed[:PRINTED], f"  and {len(odd) - PRINTED} more, in {workdir / 'card.txt'}"]
    return "\n".join([*lines, *listed, f"  contact sheet: {sheet}"])


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
