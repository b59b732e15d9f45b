"""What the command lines share: --config, whose errors are one line, --workdir, running a main."""

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from dicepp_jax import parallel
from dicepp_jax.train import NonFiniteLossError

INTERRUPTED = 130

_DEBUG = flags.DEFINE_bool("debug", False, "Show the traceback of an error.")


@contextlib.contextmanager
def _config_errors() -> Iterator[None]:
    """End the program in one line if a config field or file does not exist."""
    try:
        yield
    except (AttributeError, KeyError) as error:
        guess = re.search(r'Did you mean "(\w+)" instead of "(\w+)"', str(error))
        if guess:
            sys.exit(f"error: the config has no field {guess[2]!r}, did you mean {guess[1]!r}?")
        sys.exit(f"error: the config has no field {str(error).strip(chr(34) + chr(39))!r}")
    except (LookupError, OSError) as error:
        sys.exit(f"error: {error}")


QUICKSTART = Path(__file__).parents[1] / "configs" / "quickstart.py"

# The default is read here and now, with what the command line overrides.
with _config_errors():
    _CONFIG = config_flags.DEFINE_config_file("config", str(QUICKSTART), "The experiment.")
_WORKDIR = flags.DEFINE_string("workdir", "", "Where results go; by default below runs/.")


def config() -> ConfigDict:
    """The config of the command line."""
    return _CONFIG.value


def workdir(ending: str = "") -> Path:
    """The --workdir, by default runs/NAME for configs/NAME.py, with an ending.

    For configs/NAME.py:WHICH it is runs/NAME/WHICH.
    """
    path, _, which = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    name = Path(path).stem + (f"/{which}" if which else "")
    return Path(_WORKDIR.value or f"runs/{name}{ending}").expanduser()


def _parse(argv: list[str]) -> list[str]:
    for path in re.findall(r"^--?config=(.*)$", "\n".join(argv), re.MULTILINE):
        if not Path(path.split(":")[0]).is_file():
            there = ", ".join(sorted(p.name for p in QUICKSTART.parent.glob("*_*.py")))
            sys.exit(f"error: there is no config {path}; in configs/ are {there}")
    with _config_errors():
        return app.parse_flags_with_usage(argv)


def leave(interrupted: str) -> NoReturn:
    """End an interrupted program at once, telling what the same command does then."""
    print(f"interrupted; {interrupted}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    # Checkpoints are closed. A compilation may be under way in a thread of XLA's, and the
    # interpreter's own end would crash on it.
    os._exit(INTERRUPTED)


def run(main: Callable[[], None], interrupted: str) -> None:
    """Run a main; bad input ends it with one line instead of a traceback.

    Args:
      main: what to run.
      interrupted: told when it is interrupted: what the same command does then.
    """

    def guarded(argv: list[str]) -> None:
        if len(argv) > 1:
            raise app.UsageError(f"unexpected {' '.join(argv[1:])}; fields are --config.NAME=VALUE")
        # Orbax tells of every file it opens.
        logging.set_verbosity(logging.WARNING)
        try:
            main()
        except (ValueError, OSError, NonFiniteLossError) as error:
            if _DEBUG.value:
                raise
            parallel.leave(error)
        except KeyboardInterrupt:
            leave(interrupted)

    for name in ("config", "workdir", "debug"):  # What --help lists.
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])
    app.run(guarded, flags_parser=_parse)
