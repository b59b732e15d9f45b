"""Train, evaluate and draw: python -m experiments.run --config=configs/quickstart.py

Without --config it runs the quickstart. Results go to --workdir, by default runs/NAME for
configs/NAME.py. After an interruption the same command resumes.
"""

import contextlib

from experiments.setup import command_line


def main(options: command_line.Options) -> None:
    """Run the config of the flags."""
    from dicepp_jax import parallel
    from experiments.training.single import train_and_evaluate

    with contextlib.ExitStack() as stack:
        if options.hosts:
            stack.enter_context(parallel.joined(*options.hosts, options.config.devices))
        text = train_and_evaluate(options.config, options.workdir)
        print(f"\n{text}\n\nresults, figures and checkpoints: {options.workdir}")


if __name__ == "__main__":
    command_line.run(main, "the same command resumes after the last saved step")
