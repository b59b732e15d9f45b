"""Train a grid: python -m experiments.sweep --config=configs/drive_gamma_grid.py

All members train side by side in one compiled program (dicepp_jax.train_many), and each has a
directory below --workdir as if it had been trained alone: other commands accept it, and it resumes
after an interruption. With several seeds their deep ensemble is evaluated, too.
"""

from experiments.setup import command_line


def main(options: command_line.Options) -> None:
    """Train the grid of the flags."""
    from experiments.training.grid import train_and_evaluate

    text = train_and_evaluate(options.config, options.workdir)
    print(f"\n{text}\n\nresults, figures and members: {options.workdir}")


if __name__ == "__main__":
    command_line.run(
        main,
        "the same command resumes after the last saved step",
        on_several_hosts=False,
    )
