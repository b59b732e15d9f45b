"""A command in a process that is killed at a point: python tests/killed.py POINT MODULE [ARGUMENT]

What a kill finds depends on the point alone and not on the machine's pace.
"""

import os
import runpy
import signal
import sys

# Below which names, and at which of the events there: opening, renaming, making a folder, removing.
FILES = {
    "preparing": ("incomplete.", 3),
    "checkpoint": ("orbax-checkpoint-tmp", 9),
    "log": ("log.jsonl", 4),
    "evaluation": (".test.part", 3),
    "report": ("report.txt", 2),
}


def kill(*_, **__):
    """End this process as a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)


def at_files(fragment, number):
    """Kill at an event with a path that contains a fragment."""
    events = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir"}
    left = [number]

    def hook(event, arguments):
        if event in events and fragment in str(arguments[0]):
            left[0] -= 1
            if not left[0]:
                kill()

    sys.addaudithook(hook)


def at_call(module, name, number):
    """Kill at a call of a function or method."""
    function, left = getattr(module, name), [number]

    def counting(*args, **kwargs):
        left[0] -= 1
        if not left[0]:
            kill()
        return function(*args, **kwargs)

    setattr(module, name, counting)


def arm(point):
    """Prepare to be killed at a point."""
    if point in FILES:
        at_files(*FILES[point])
        return
    import jax

    from dicepp_jax import progress, train

    calls = {
        "compile": (jax.stages.Lowered, "compile", 1),
        "step": (progress.TrainingProgress, "step", 5),
        "validation": (train, "stoppable", 2),
    }
    at_call(*calls[point])


if __name__ == "__main__":
    point, module, *arguments = sys.argv[1:]
    sys.path.insert(0, os.getcwd())
    arm(point)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
