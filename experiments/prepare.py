"""Prepare a data set and look at it: python -m experiments.prepare --config=configs/drive_dscpp.py

Prints a card: cases against the paper's Table 1, native sizes, balance of classes, terms, and
everything odd that was found. The card, the split and a contact sheet of images with the outlines
of their masks go to --workdir, by default runs/NAME_data for configs/NAME.py.
"""

import json
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from dicepp_jax import plots
from dicepp_jax.data.card import anomalies, card
from experiments import cli, parts, record

SHOWN = 24
"""Cases on the contact sheet, spread evenly over the set."""
PRINTED = 20
"""Odd things that are printed; the card in the directory has them all."""


def prepare(config: ConfigDict, workdir: Path) -> str:
    """Prepare the set of a config and write its card.

    Returns:
      What is printed.
    """
    loaded = parts.open_set(config, parts.find(config))
    ids = {part: list(subset.ids) for part, subset in loaded.splits.items()}
    lines = card(loaded.spec, loaded.facts, ids, str(loaded.path))
    odd = anomalies(loaded.facts, ids)
    workdir.mkdir(parents=True, exist_ok=True)
    listed = [f"  odd: {line}" for line in odd] or ["  odd: nothing"]
    record.write_text(workdir / "card.txt", "\n".join(lines + listed) + "\n")
    record.write_text(workdir / record.SPLIT, json.dumps(ids, indent=1) + "\n")
    sheet = workdir / "contact_sheet.png"
    plots.save(plots.contact_sheet(_shown(loaded.splits), loaded.spec.classes), sheet)
    if len(listed) > PRINTED:
        listed = [*listed[:PRINTED], f"  and {len(odd) - PRINTED} more, in {workdir / 'card.txt'}"]
    return "\n".join([*lines, *listed, f"  contact sheet: {sheet}"])


def _shown(splits: parts.Splits) -> list[plots.Sample]:
    """Cases spread evenly over all splits."""
    everywhere = [(part, index) for part, subset in splits.items() for index in range(len(subset))]
    chosen = np.linspace(0, len(everywhere) - 1, min(SHOWN, len(everywhere))).round().astype(int)
    samples = []
    for part, index in (everywhere[i] for i in chosen):
        case, name = splits[part][index], splits[part].ids[index]
        samples.append(plots.Sample(f"{name}, {part}", case["image"], case["label"]))
    return samples


def main() -> None:
    """Prepare the set of the flags."""
    print(prepare(cli.config(), cli.workdir("_data")))


if __name__ == "__main__":
    cli.run(main, "nothing of a set that was being prepared is kept; the same command begins anew")
