"""The device memory that a training step takes: python -m experiments.memory --config=FILE

Needs no prepared data and runs nothing; see experiments/training/step_memory.py.
"""

import time

from experiments.setup import command_line


def main(options: command_line.Options) -> None:
    """Describe the memory of a step of the config of the flags."""
    from experiments.setup import components
    from experiments.training import step_memory

    config = options.config
    built = components.build_without_data(config)
    step = components.train_step(built)
    print("compiling a step, which may take minutes", flush=True)
    start = time.perf_counter()
    shapes = components.state_shapes(built)
    lines = step_memory.describe(config, built, step, shapes, config.data.batch_size)
    seconds = time.perf_counter() - start
    print(f"{components.describe(built)}, compiled in {seconds:.0f} s")
    print("\n".join(lines))


if __name__ == "__main__":
    command_line.run(main, "nothing was written", on_several_hosts=False)
