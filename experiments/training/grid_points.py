"""The points of a grid of hyper-parameters, and the config of each member."""

import copy
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ml_collections import ConfigDict

from configs import base
from dicepp_jax.losses import get_loss

FIELDS = {name: f"loss.{name}" for name in base.HYPER} | {"learning_rate": "train.learning_rate"}
"""The field that each axis of a grid sets."""
MEMBERS = 1000


class Point(NamedTuple):
    """A point of a grid: the members that differ only in their seed.

    Attributes:
      values: of its axes.
      members: their configs by name.
    """

    values: Mapping[str, float]
    members: Mapping[str, ConfigDict]


def expand(config: ConfigDict) -> dict[str, Point]:
    """The points of a config's grid, by name.

    Args:
      config: of the grid.

    Returns:
      Points, each with a member for every seed, whose config is that of a single run.

    Raises:
      ValueError: if the config is not valid, there is no grid, the grid has more than `MEMBERS`
        members, an axis does not fit the loss, or zipped axes differ in length.
    """
    base.check(config)
    fields = config.sweep
    axes = {name: tuple(fields[name]) for name in FIELDS if len(fields[name])}
    name = config.loss.name
    if "," in name:
        raise ValueError(
            f"loss.name is {name!r}, but a grid has one loss; give one, as in "
            "--config.loss.name=dscpp"
        )
    get_loss(name)
    if config.devices != 1:
        raise ValueError(
            f"devices is {config.devices}, which applies to single runs; a grid spreads its "
            "members over all local devices by itself, so omit it"
        )
    if config.train.then:
        raise ValueError(
            f"train.then is {config.train.then!r}, which applies to single runs; train them by "
            "python -m experiments.run"
        )
    if not axes and fields.seeds == 1:
        raise ValueError(
            "the config has no grid: set an axis such as --config.sweep.gamma='(1,2,3)', or "
            "--config.sweep.seeds=3"
        )
    for axis in axes:
        if axis in base.HYPER:
            _check_taken(name, axis)
    points: dict[str, Point] = {}
    zipped = [name.strip() for name in fields.zip.split(",") if name.strip()]
    for point in _points(axes, zipped, fields.seeds):
        values = dict(zip(axes, point, strict=True))
        title = "_".join(f"{axis}={value:g}" for axis, value in values.items())
        if title and title in points:
            raise ValueError(f"the grid has {title} twice, to six digits; remove one of them")
        members = {}
        for seed in range(config.seed, config.seed + fields.seeds):
            member = copy.deepcopy(config)
            member.update_from_flattened_dict(
                {FIELDS[axis]: float(value) for axis, value in values.items()}
            )
            member.seed = seed
            member.sweep = base.get_config().sweep
            parts = [title] * bool(title) + [f"seed={seed}"] * (fields.seeds > 1)
            members["_".join(parts)] = member
        points[title or name] = Point(values, members)
    return points


def _check_taken(name: str, axis: str) -> None:
    try:
        get_loss(name, **{axis: 0.0})
    except ValueError as error:
        raise ValueError(f"sweep.{axis} is set, but {error}") from error


def _points(
    axes: Mapping[str, Sequence[float]], zipped: Sequence[str], seeds: int
) -> list[tuple[float, ...]]:
    """The values of all axes at each point, in their order; the last one varies fastest."""
    unknown = [name for name in zipped if name not in axes]
    lengths = {name: len(axes[name]) for name in zipped if name in axes}
    if unknown or len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} has {n}" for name, n in lengths.items())
        raise ValueError(
            f"sweep.zip is {','.join(zipped)}; it names axes with equally many values"
            + (f": {found}" if found else "")
            + (f"; sweep.{unknown[0]} has none" if unknown else "")
        )
    blocks = [[name] for name in axes if name not in zipped]
    if zipped:
        blocks.insert(0, list(zipped))
    choices = [list(zip(*(axes[name] for name in block), strict=True)) for block in blocks]
    count = math.prod(map(len, choices)) * seeds
    if count > MEMBERS:
        raise ValueError(
            f"the grid has {count} members, expected at most {MEMBERS}; give fewer values on its "
            "axes (sweep) or fewer sweep.seeds"
        )
    points = []
    for chosen in itertools.product(*choices):
        values = dict(zip(itertools.chain(*blocks), itertools.chain(*chosen), strict=True))
        points.append(tuple(values[name] for name in axes))
    return points
