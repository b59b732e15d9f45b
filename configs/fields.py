"""What config fields may be: kinds of values, and the check of a config against a table of fields.

`configs/base.py` has the table. A kind says which values it accepts, and in words what they are.
"""

import dataclasses
import difflib
import functools
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

LARGEST = 3.4e38
"""Larger numbers are infinite in float32, as NaN and infinity are no numbers here."""


class Kind(Protocol):
    """What a field may be; `str` says it in words.

    Attributes:
      type_of_value: of a field that is None by default.
    """

    type_of_value: ClassVar[type]

    def accepts(self, value: Any) -> bool:
        """Whether a field may have a value."""
        ...


@dataclasses.dataclass(frozen=True)
class Whole:
    """Whole numbers from `least` to `most`."""

    least: int
    most: int
    type_of_value: ClassVar[type] = int

    def accepts(self, value: Any) -> bool:
        """Whether a field may have a value; True and False are no numbers."""
        return type(value) is int and self.least <= value <= self.most

    def __str__(self) -> str:
        return f"a whole number from {self.least} to {self.most}"


@dataclasses.dataclass(frozen=True)
class Number:
    """Finite numbers from `least` to `most`, or only those above or below a bound.

    Example:
      >>> Number(least=0, below=1).accepts(1.0), str(Number(least=0, below=1))
      (False, 'a number of at least 0 and below 1')
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    type_of_value: ClassVar[type] = float

    def accepts(self, value: Any) -> bool:
        """Whether a field may have a value; True and False are no numbers."""
        return (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and -LARGEST <= value <= LARGEST
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        if self.least is not None and self.most is not None:
            return f"a number from {self.least:g} to {self.most:g}"
        bounds = (
            ("of at least", self.least),
            ("above", self.above),
            ("at most", self.most),
            ("below", self.below),
        )
        said = " and ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)
        return f"a number {said}" if said else "a finite number"


@dataclasses.dataclass(frozen=True)
class Flag:
    """True or False."""

    type_of_value: ClassVar[type] = bool

    def accepts(self, value: Any) -> bool:
        """Whether a field may have a value."""
        return isinstance(value, bool)

    def __str__(self) -> str:
        return "True or False"


@dataclasses.dataclass(frozen=True)
class Text:
    """Any text, such as a path."""

    type_of_value: ClassVar[type] = str

    def accepts(self, value: Any) -> bool:
        """Whether a field may have a value; no path has a null character."""
        return isinstance(value, str) and "\0" not in value

    def __str__(self) -> str:
        return "text"


@dataclasses.dataclass(frozen=True)
class Name:
    """A name in a table of the library, which loads JAX; `components.check` looks it up."""

    table: str
    type_of_value: ClassVar[type] = str

    def accepts(self, value: Any) -> bool:
        """Whether a field may have a value."""
        return isinstance(value, str) and bool(value.strip())

    def __str__(self) -> str:
        return f"a name in {self.table}"


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of a few names."""

    names: tuple[str, ...]
    type_of_value: ClassVar[type] = str

    def accepts(self, value: Any) -> bool:
        """Whether a field may have a value."""
        return isinstance(value, str) and value in self.names

    def __str__(self) -> str:
        return f"{', '.join(self.names[:-1])} or {self.names[-1]}"


@dataclasses.dataclass(frozen=True)
class Either:
    """Values of one kind or another."""

    one: Kind
    other: Kind
    type_of_value: ClassVar[type] = object

    def accepts(self, value: Any) -> bool:
        """Whether a field may have a value."""
        return self.one.accepts(value) or self.other.accepts(value)

    def __str__(self) -> str:
        return f"{self.one} or {self.other}"


@dataclasses.dataclass(frozen=True)
class Several:
    """Tuples of values of a kind; lists are tuples in JSON, from which configs are read again.

    Attributes:
      each: of the values.
      empty: what () means, which is always accepted.
      lengths: of other tuples; () for any.
      rising: whether each value has to be above the one before.

    Example:
      >>> str(Several(Whole(1, 9), "all", (2, 3)))
      'a tuple of 2 or 3 values, each a whole number from 1 to 9, or () for all'
    """

    each: Kind
    empty: str
    lengths: tuple[int, ...] = ()
    rising: bool = False
    type_of_value: ClassVar[type] = tuple

    def accepts(self, value: Any) -> bool:
        """Whether a field may have a value."""
        if not isinstance(value, tuple | list) or not all(map(self.each.accepts, value)):
            return False
        fits = not value or not self.lengths or len(value) in self.lengths
        return fits and not (self.rising and list(value) != sorted(set(value)))

    def __str__(self) -> str:
        count = f"{' or '.join(map(str, self.lengths))} " if self.lengths else ""
        rising = ", each above the one before" if self.rising else ""
        return f"a tuple of {count}values, each {self.each}{rising}, or () for {self.empty}"


class Field(NamedTuple):
    """A row of the table of fields.

    Attributes:
      default: its value unless a config or the command line sets it; None if it is left unset.
      kind: what it may be.
      example: for an error, as one would type it; "" for the default.
      unset: what None means; "" if the field cannot be None.
    """

    default: Any
    kind: Kind
    example: str = ""
    unset: str = ""

    def accepts(self, value: Any) -> bool:
        """Whether the field may have a value."""
        return (value is None and bool(self.unset)) or self.kind.accepts(value)

    def fault(self, path: str, found: str) -> str:
        """The error of a field at a path that was found to be something else."""
        unset = f", or left out for {self.unset}" if self.unset else ""
        example = self.example or f"{self.default}"
        shown = f", as in --config.{path}={example}" if example else ""
        return f"{path} is {found}; it must be {self.kind}{unset}{shown}"


def by_path(tree: Mapping[str, Any]) -> dict[str, Field]:
    """A nested table of fields as a flat one.

    Example:
      >>> list(by_path({"seed": Field(0, Flag()), "data": {"size": Field((), Flag())}}))
      ['seed', 'data.size']
    """
    flat: dict[str, Field] = {}
    for name, value in tree.items():
        if isinstance(value, Field):
            flat[name] = value
        else:
            flat |= {f"{name}.{path}": field for path, field in by_path(value).items()}
    return flat


def build(fields: Mapping[str, Field]) -> ConfigDict:
    """The config of a table of fields by path, with their defaults.

    Example:
      >>> build({"data.size": Field((), Several(Whole(1, 9), "all"))}).to_json()
      '{"data": {"size": []}}'
    """
    tree: dict[str, Any] = {}
    for path, (default, kind, *_) in fields.items():
        *groups, name = path.split(".")
        group = functools.reduce(lambda at, name: at.setdefault(name, {}), groups, tree)
        group[name] = placeholder(kind.type_of_value) if default is None else default
    return ConfigDict(tree)


def faults(fields: Mapping[str, Field], config: ConfigDict) -> list[str]:
    """What is wrong with each field of a config, one line each."""
    values = _values(config)
    return [
        *(unknown(fields, path) for path in values if path not in fields),
        *(f"the config lacks the field {path}; start from configs.base.get_config()"
          for path in fields if path not in values),
        *(field.fault(path, _shown(values[path]))
          for path, field in fields.items()
          if path in values and not field.accepts(values[path])),
    ]  # fmt: skip


def unknown(fields: Mapping[str, Field], path: str) -> str:
    """The error of a field that does not exist, with the nearest that does."""
    within = [other for other in fields if other.startswith(f"{path}.")]
    if within:
        return f"{path} is a group of fields; set one of them, such as {within[0]}"
    close = difflib.get_close_matches(path, fields, n=1, cutoff=0.5)
    guess = f", did you mean {close[0]}?" if close else "; configs/base.py has all fields"
    return f"the config has no field {path}{guess}"


def _values(config: ConfigDict) -> dict[str, Any]:
    """The values of a config by path."""
    values: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            values |= {f"{name}.{path}": inner for path, inner in _values(value).items()}
        else:
            values[name] = value
    return values


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
