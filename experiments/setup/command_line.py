"""The command line of mains that take a config: flags, errors in one line, interruption.

Flags are defined when a main runs, so that importing a module defines none.
"""

import contextlib
import difflib
import itertools
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

import configs
from configs import base, fields
from experiments.setup import compiled, failures, huge_pages, stopping

CONFIGS = Path(configs.__file__).parent
QUICKSTART = CONFIGS / "quickstart.py"
NO_CONFIGS = ("__init__", "base", "fields")
"""Modules beside the configs that are not listed."""


class Hosts(NamedTuple):
    """The processes of a run on several hosts.

    Attributes:
      coordinator: HOST:PORT of process 0, None to ask the cluster; likewise the next two.
      processes: their number.
      process: the number of this one.
    """

    coordinator: str | None
    processes: int | None
    process: int | None


class Options(NamedTuple):
    """What the flags say.

    Attributes:
      config: of --config, with its overrides.
      workdir: of --workdir, by default runs/NAME for configs/NAME.py.
      hosts: None for a run of one process.
    """

    config: ConfigDict
    workdir: Path
    hosts: Hosts | None


def run(
    main: Callable[[Options], None],
    interrupted: str,
    *,
    ending: str = "",
    on_several_hosts: bool = True,
) -> None:
    """Run a main; bad input ends the program with one line instead of a traceback.

    Args:
      main: takes the options.
      interrupted: printed after Ctrl-C or SIGTERM: what the same command does next.
      ending: of the default working directory's name.
      on_several_hosts: whether the main can run on several hosts.
    """
    _define(on_several_hosts)

    def guarded(argv: list[str]) -> None:
        if len(argv) > 1:
            sys.exit(
                f"error: unexpected {' '.join(argv[1:])}; configs are given by --config=NAME, and "
                "their fields by --config.FIELD=VALUE"
            )
        hosts = _hosts()
        if hosts and not on_several_hosts:
            sys.exit(
                "error: this command runs as one process, on all devices of its machine; omit "
                "--coordinator, --processes, --process and --distributed"
            )
        _check(flags.FLAGS.config)
        huge_pages.use()
        stopping.listen(interrupted)
        logging.set_verbosity(logging.FATAL)  # Orbax logs what it raises, too.
        # Here, since it loads JAX.
        from dicepp_jax import parallel

        compiled.keep()
        try:
            main(Options(flags.FLAGS.config, _workdir(ending), hosts))
        except Exception as error:
            if flags.FLAGS.debug or not failures.is_expected(error):
                raise
            parallel.leave(failures.describe(error))
        except KeyboardInterrupt:
            stopping.leave(interrupted)

    app.run(guarded, flags_parser=_parse)


def _define(on_several_hosts: bool) -> None:
    _check_fields(sys.argv[1:])
    with _config_errors():
        # The default config is read here, with the command line's overrides.
        config_flags.DEFINE_config_file("config", str(QUICKSTART), "The experiment.")
    flags.DEFINE_string(
        "workdir",
        "",
        "Where results go; by default runs/NAME for configs/NAME.py, and runs/NAME_data for the "
        "card of a data set.",
    )
    flags.DEFINE_bool("debug", False, "Show the traceback of an error.")
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, for a run on several hosts.")
    flags.DEFINE_integer("processes", None, "The number of processes of such a run.")
    flags.DEFINE_integer("process", None, "The number of this process, from 0.")
    flags.DEFINE_bool(
        "distributed", False, "Take these three from the cluster's environment, as in a SLURM job."
    )
    # --help lists the flags of the main's own module.
    hosts = ("coordinator", "processes", "process", "distributed") if on_several_hosts else ()
    for name in ("config", "workdir", "debug", *hosts):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])


def _hosts() -> Hosts | None:
    given = Hosts(flags.FLAGS.coordinator, flags.FLAGS.processes, flags.FLAGS.process)
    several = flags.FLAGS.distributed or any(value is not None for value in given)
    return given if several else None


def _workdir(ending: str) -> Path:
    """The --workdir; by default runs/NAME/WHICH_fold=K for configs/NAME.py:WHICH and a fold."""
    path, _, which = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    name = Path(path).stem + (f"/{which}" if which else "")
    fold = flags.FLAGS.config.data.fold
    if fold is not None:
        ending = f"_fold={fold}{ending}"
    return Path(flags.FLAGS.workdir or f"runs/{name}{ending}").expanduser()


def _parse(argv: list[str]) -> list[str]:
    located = [_located(argument) for argument in argv]
    with _config_errors():
        try:
            return flags.FLAGS(located)
        except SystemExit:
            sys.exit(0)  # After --help, absl exits as if that were an error.


def _flag_error(error: flags.Error) -> str:
    """One line about a flag that cannot be parsed."""
    field = re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error), re.DOTALL)
    if field and field[1] in base.FIELDS:
        return base.FIELDS[field[1]].fault(field[1], repr(field[2]))
    first, *others = str(error).strip().splitlines()
    # That of a config file contains a traceback, whose last line says what is wrong.
    return (
        f"{first.removesuffix('Error whilst parsing config file:')}{others[-1]}"
        if others
        else first
    )


def _check_fields(arguments: list[str]) -> None:
    """End the program with one line if a config field on the command line does not exist."""
    for argument in itertools.takewhile(lambda argument: argument != "--", arguments):
        field = re.match(r"--?(?:no)?config\.([^=]*)", argument)
        if field and field[1] not in base.FIELDS:
            sys.exit(f"error: {fields.unknown(base.FIELDS, field[1])}")


def _check(config: ConfigDict) -> None:
    """End the program with a line for each field of the config that has no valid value."""
    try:
        base.check(config)
    except ValueError as error:
        sys.exit("\n".join(f"error: {line}" for line in str(error).splitlines()))


def _located(argument: str) -> str:
    """A --config of this package by its name alone, or by configs/NAME.py, as its path."""
    found = re.fullmatch(r"(--?config=)([^:]*)(:.*)?", argument)
    if not found:
        return argument
    option, path, which = found[1], Path(found[2]), found[3] or ""
    ours = CONFIGS / f"{path.stem}.py"
    is_ours = path in (Path(path.stem), Path("configs") / ours.name)
    if not path.is_file() and is_ours and ours.is_file():
        path = ours
    if not path.is_file():
        names = sorted(p.stem for p in CONFIGS.glob("*.py") if p.stem not in NO_CONFIGS)
        close = difflib.get_close_matches(path.stem, names, n=1, cutoff=0.5)
        guess = f", did you mean {close[0]}?" if close else "."
        sys.exit(f"error: config {path} does not exist{guess} Known by name: {', '.join(names)}")
    return f"{option}{path}{which}"


@contextlib.contextmanager
def _config_errors() -> Iterator[None]:
    """End the program with one line if a flag, a config field or a file is not valid."""
    try:
        yield
    except flags.Error as error:
        sys.exit(f"error: {_flag_error(error)}")
    except (AttributeError, KeyError) as error:
        guess = re.search(r'Did you mean "(\w+)" instead of "(\w+)"', str(error))
        if guess:
            sys.exit(f"error: the config has no field {guess[2]!r}, did you mean {guess[1]!r}?")
        if "get_config" in str(error):
            sys.exit("error: the config file has no function get_config(), as configs/*.py have")
        sys.exit(f"error: {str(error).strip(chr(34))}")
    except SyntaxError as error:
        sys.exit(f"error: {error.filename}, line {error.lineno} is no Python: {error.msg}")
    except (LookupError, OSError) as error:
        sys.exit(f"error: {error}")
