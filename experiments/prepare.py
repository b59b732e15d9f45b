"""Prepare a data set and look at it: python -m experiments.prepare --config=configs/drive_dscpp.py

Prints a card: cases against the paper's Table 1, native sizes, balance of classes, terms, and
every anomaly that was found. The card, the split and a contact sheet of images with the outlines
of their masks go to --workdir, by default runs/NAME_data for configs/NAME.py.
"""

from experiments.setup import command_line


def main(options: command_line.Options) -> None:
    """Prepare the data set of the flags."""
    from experiments.setup import components
    from experiments.workdirs.data_card import write_card

    source = components.find_data(options.config)
    print(write_card(components.open_data(options.config, source), options.workdir))


if __name__ == "__main__":
    command_line.run(
        main,
        "a data set that was being prepared is discarded; the same command starts again",
        ending="_data",
        on_several_hosts=False,
    )
