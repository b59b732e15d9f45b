"""Every config field: its default, values that it takes and values that are refused."""

import copy
import functools
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from configs import base, folder, imbalance
from dicepp_jax import data
from dicepp_jax.data.specs import RARE
from experiments.setup import components
from experiments.training import grid_points, single

ROOT = Path(__file__).parents[1]
NAN, INF, HUGE = math.nan, math.inf, 10**12
PATH = ["", "nosuch", "~/some where/ä"], [1]
FLAG = [True, False], ["True", 1.0]
SHARE = [0.5, 0, 1, 0.0, 1.0, 1e-9], [-0.1, 1.5, "0.5"]
HYPER = [None, 2.0, 0, 1, -1, HUGE, -3.5], ["2", (2.0,)]
AXIS = [(), [1], (0.5, 1), (-1.0, 2.0)], [1.0, ("a",), (NAN,), (1.0, INF), (True,), ((1,),)]

EXPECTED = {
    "seed": ([0, 1, 2**31 - 1], [2**31, 1.5]),
    "devices": ([1, 8], [10**9]),
    "resume": FLAG,
    "data.name": (["phantom", "nosuch", "folder"], [" "]),
    "data.manual_dir": PATH,
    "data.download": ([False, True], ["yes", 2]),
    "data.data_dir": PATH,
    "data.size": (
        [(), [], (96, 128), [16, 32, 32], (1, 1), (16384, 16384)],
        [(96,), (0, 4), (-8, 8), (8.0, 8), (8, 8, 8, 8), (10**9, 10**9), 96, "(8,8)", (True, 8)],
    ),
    "data.split": (["random", "group", "nosuch"], [1]),
    "data.split_file": PATH,
    "data.fold": ([None, 0, 1, 4, 5], [HUGE, 0.0]),
    "data.batch_size": ([1, 64, 4096], [10**6]),
    "data.cache_gib": ([4.0, 0, 0.0, 1, 512.0], [-0.5, 1e9]),
    "data.foreground": ([0.0, *SHARE[0]], SHARE[1]),
    "data.validation": (["patch", "sliding_window"], ["Patch", "windows", 1]),
    "folder.images": PATH,
    "folder.masks": PATH,
    "folder.classes": PATH,
    "folder.mask_values": (
        [(), [], [1], (0, 128, 255), (0, "#ff0000"), ("#000000", "#ffffff")],
        [255, (0.5,), (-1,), (None,), (0, True)],
    ),
    "folder.spacing": (
        [(), [], (3.0, 0.8, 0.8), (1, 1, 1)],
        [(1.0,), (1, 1), (0.0, 1, 1), (-1, 1, 1), (NAN, 1, 1), (INF, 1, 1), 1.0],
    ),
    "folder.intensity_range": (
        [(), [], (-79, 304), (0.0, 0.5)],
        [(1.0,), (5, 5), (304, -79), (0, INF), (NAN, 1), (0, 1, 2)],
    ),
    "loss.name": (["dscpp", "dsc,dscpp", "nosuch"], [("dsc", "dscpp")]),
    **{f"loss.{name}": HYPER for name in base.HYPER},
    "model.name": (["unet", "nosuch"], [1]),
    "model.filters": ([32, 1, 512], [10**9, 8.0]),
    "model.depth": ([4, None, 0, 1, 10], [1000, 2.0]),
    "model.dtype": (["float32", "bfloat16"], ["float16", "float64"]),
    "model.remat": ([False, True], ["no", 2]),
    "model.dropout": ([0.0, 0, 0.5, 1e-9], [1.0, -0.1, "0.5", 1]),
    "augment.mirror": SHARE,
    **{
        f"augment.{name}": ([0.15, *SHARE[0]], SHARE[1])
        for name in ("brightness", "elastic", "rotate", "scale")
    },
    "train.epochs": ([1000, 1, 100000], [10**9, 1.0]),
    "train.learning_rate": ([0.1, 1, HUGE, 1e-3, 1e30], [0.0, -0.1, "fast"]),
    "train.factor": ([0.1, 1, 0.5, 1.0], [0.0, 1.1]),
    "train.patience": ([25, 1, 10**6], [2.5]),
    "train.min_delta": ([1e-7, 0, 1, 0.0, 0.01], [-1e-9, 1e6]),
    "train.min_learning_rate": ([1e-4, 0, 0.1, 1, HUGE], [-1e-9]),
    "train.stop_patience": ([50, 1, 10**6], [2.5]),
    "train.then": (["", "ce", "nosuch"], [1, None]),
    **{f"sweep.{name}": AXIS for name in base.HYPER},
    "sweep.learning_rate": ([(), [], [1], (0.1, 0.01)], [0.1, (0.0,), (0.1, -0.1), (INF,)]),
    "sweep.seeds": ([1, 3, 100], [10**9, 1.0]),
    "sweep.zip": (["", "nosuch", "alpha,beta"], [("alpha", "beta")]),
    "sweep.strategy": (["auto", "vmap", "sequential", "devices"], ["fast"]),
    "inference.overlap": ([0.5, 0, 0.0, 0.75], [1.0, -0.1, 1]),
    "inference.weighting": (["uniform", "gaussian", "nosuch"], [1]),
    "inference.batch_size": ([1, 16], [10**6]),
    "inference.mirror": ([False, True], [2]),
    "evaluation.figures": ([4, 0, 1, 1000], [10**9]),
}
"""For each field, values that it takes, the default first, and values that are refused."""

ANYTHING = (-1, 0, 1, HUGE, 1e300, NAN, INF, -INF, "", "nosuch", None, True, [], [1], {"a": 1})
"""What every field is given; it takes what is listed above, and refuses the others."""


def same(one, other):
    """Whether values are alike, which 1, 1.0 and True are not."""
    return repr(one) == repr(other)


def read(config, path):
    return functools.reduce(lambda group, name: group[name], path.split("."), config)


def changed(path, value):
    """A config with a value as Python code may set it, whatever its type."""
    config = base.get_config()
    if path == "train.min_learning_rate":
        config.train.learning_rate = 3e38
    elif path.endswith("learning_rate"):
        config.train.min_learning_rate = 0.0
    with config.ignore_type():
        config.update_from_flattened_dict({path: value})
    return config


def test_every_field_has_its_expectation():
    assert list(base.FIELDS) == list(EXPECTED)


def test_the_defaults_are_those_that_runs_have_recorded():
    flat = {}
    for name, value in json.loads(base.get_config().to_json()).items():
        group = value if isinstance(value, dict) else None
        flat |= {f"{name}.{k}": v for k, v in group.items()} if group else {name: value}
    for path, (accepted, _) in EXPECTED.items():
        default = list(accepted[0]) if accepted[0] == () else accepted[0]
        assert same(flat[path], default), path
    assert list(flat) == list(EXPECTED)


@pytest.mark.parametrize("path", base.FIELDS)
def test_a_field_takes_what_makes_sense_and_names_what_does_not(path):
    accepted, refused = EXPECTED[path]
    for value in accepted:
        config = changed(path, value)
        if path.startswith("folder."):
            config.data.name = "folder"
        base.check(config)
    # As a config holds them: it makes 1 and True 1.0 where it expects that type.
    taken = [read(changed(path, value), path) for value in accepted]
    given = [changed(path, value) for value in (*refused, *ANYTHING)]
    for config in given:
        value = read(config, path)
        if any(same(value, other) for other in taken):
            continue
        with pytest.raises(ValueError) as error:
            base.check(config)
        expected = f"{path} is {value!r}; it must be {base.FIELDS[path].kind}"
        if isinstance(value, ConfigDict):
            expected = f"the config has no field {path}.a"
        assert str(error.value).startswith(expected)
    assert not any(same(read(config, path), other) for config in given[: len(refused)]
                   for other in taken)  # fmt: skip


def test_examples_in_errors_are_values_that_are_taken():
    for path, field in base.FIELDS.items():
        if field.example:
            text = field.example.strip("'\"")
            kind = field.kind.type_of_value
            value = eval(text) if kind is tuple else kind(text)
            assert field.accepts(value), path


def test_all_fields_at_fault_are_reported_at_once():
    config = base.get_config()
    config.model.filters, config.train.epochs = 0, -1
    config.train.epoch = 5
    del config.data.split
    with pytest.raises(ValueError) as error:
        base.check(config)
    lines = str(error.value).splitlines()
    assert [line[:30] for line in lines] == [
        "the config has no field train.", "the config lacks the field dat",
        "model.filters is 0; it must be", "train.epochs is -1; it must be",
    ]  # fmt: skip
    assert lines[0].endswith("did you mean train.epochs?")


def test_configs_read_from_json_are_checked_alike():
    """Where tuples are lists, as in the run.json of a run."""
    config = folder.get_config()
    config.folder.spacing, config.data.size = (3.0, 1.0, 1.0), (16, 32, 32)
    stored = ConfigDict(json.loads(config.to_json()))
    base.check(stored)
    stored.data.size = [16, 0, 32]
    with pytest.raises(ValueError, match=r"data\.size is \[16, 0, 32\]; it must be"):
        base.check(stored)


def tiny(data_dir, **fields):
    config = base.get_config()
    config.data.data_dir, config.data.size = data_dir, (16, 16)
    config.model.filters, config.model.depth = 2, 1
    config.update_from_flattened_dict(fields)
    return config


@pytest.mark.parametrize(
    ("fields", "message"),
    {
        "rates": (
            {"train.min_learning_rate": 0.5},
            "train.min_learning_rate is 0.5, which is above the learning rate 0.1; give "
            "--config.train.min_learning_rate=0.1 or less",
        ),
        "a rate of a grid": (
            {"sweep.learning_rate": (0.1, 1e-5)}, "which is above the learning rate 1e-05"
        ),
        "wide and deep": (
            {"model.filters": 4096, "model.depth": 5}, "the deepest level would have 131072 filters"
        ),
        "options of your own data": (
            {"folder.masks": "{case}.png"}, "folder.masks is set, but data.name is phantom"
        ),
        "volume of images": ({"data.size": (8, 16, 16)}, "Vessel phantom has 2 spatial axes"),
        "images of volumes": (
            {"data.name": "phantom_3d"}, "data.size is (16, 16); "
        ),
        "depth": (
            {"model.depth": 5},
            "model.depth is 5, but the longest side of the network's input, (16, 16), can be "
            "halved 4 times; give --config.model.depth=3, or a larger data.size",
        ),
        "devices": ({"devices": 3, "data.batch_size": 4}, "give --config.data.batch_size=3 or 6"),
        "more devices than there are": ({"devices": 1000, "data.batch_size": 1000}, "has 8 (cpu)"),
        "parameters": (
            {"model.filters": 4096, "model.depth": 4}, "(model.filters is 4096, model.depth 4)"
        ),
        "images": (
            {"data.size": (16384, 16384), "model.filters": 128}, "for the first feature maps of 1 x"
        ),
        "batch": ({"data.size": (512, 512), "data.batch_size": 65536}, "maps of 65536 x (512, 51"),
        "windows": (
            {"data.name": "kits19", "data.size": (80, 160, 160), "inference.batch_size": 4096,
             "model.filters": 32}, "maps of 4096 x (80, 160, 160)"
        ),
        "the second loss": ({"loss.name": "dsc,dscp"}, "unknown loss 'dscp', did you mean 'dscpp'"),
        "a loss twice": ({"loss.name": "dsc,dsc"}, "give each loss once"),
        "the second grid": (
            {"loss.name": "dsc,dscpp", "loss.gamma": 9.0}, "gamma must lie in [0.5, 5], got 9"
        ),
        "the second loss of a run": ({"train.then": "cee"}, "train.then is 'cee', did you mean"),
        "split": ({"data.split": "grup"}, "data.split is 'grup', did you mean 'group'?"),
    }.values(),
)  # fmt: skip
def test_what_cannot_be_is_refused_before_data_are_prepared(tmp_path, fields, message):
    config = tiny(str(tmp_path / "prepared"), **fields)
    with pytest.raises(ValueError) as error:
        single.train_and_evaluate(config, tmp_path / "run")
    assert message in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("part", ["train", "validation"])
def test_a_part_without_cases_is_refused_before_training(data_dir, part):
    config = tiny(data_dir)
    loaded = data.load("phantom", data_dir)
    loaded = loaded._replace(splits={**loaded.splits, part: loaded.splits[part][:0]})
    with pytest.raises(ValueError, match=f"the {part} part of Vessel phantom has no cases; give"):
        components.build(config, loaded)


def test_every_share_of_rare_foreground_has_a_config():
    assert [float(share) for share in imbalance.SHARES] == list(RARE)
    for share, spec in zip(imbalance.SHARES, RARE.values(), strict=True):
        config = imbalance.get_config(share)
        assert config.data.name == spec.name and spec.name in data.SETS
        members = single.of_each_loss(config)
        assert {"dsc", "dscpp", "ce", "weighted_ce"} < set(members)
        for member in members.values():
            components.build_without_data(member)


@pytest.mark.parametrize("share", ["0.5", "1e-3", "", "phantom"])
def test_a_share_without_a_phantom_is_refused(share):
    with pytest.raises(LookupError, match=f"unknown share '{share}', expected one of 0.1, 0.01, "):
        imbalance.get_config(share)


def test_a_grid_is_checked_before_its_members_are_made():
    config = base.get_config()
    config.sweep.gamma, config.train.epochs = (1.0, 2.0), 0
    with pytest.raises(ValueError, match=r"train\.epochs is 0; it must be"):
        grid_points.expand(config)


def test_a_run_that_exists_is_opened_whatever_the_rules_are_now(data_dir):
    config = tiny(data_dir, **{"train.min_learning_rate": 0.5, "model.depth": 4})
    with pytest.raises(ValueError, match="above the learning rate"):
        components.build(copy.deepcopy(config))
    assert len(components.reopen(config).splits["train"]) == 32


FORKS = """
import json, os, sys
from experiments.setup import command_line
answers = []
for arguments in json.load(sys.stdin):
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(writing, 2)
        sys.argv[1:] = arguments
        try: command_line.run(lambda options: print("accepted", file=sys.stderr), "")
        except SystemExit as ended: print(ended.code, file=sys.stderr)
        sys.stderr.flush()
        os._exit("jax" in sys.modules)
    os.close(writing)
    with os.fdopen(reading) as file: said = file.read()
    answers.append([said, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])])
print(json.dumps(answers))
"""


def test_the_command_line_refuses_a_wrong_value_of_every_field_before_jax_is_loaded(tmp_path):
    given = {}
    for path, (accepted, refused) in EXPECTED.items():
        if not isinstance(accepted[0], str):
            *_, last = (value for value in refused if not isinstance(value, str))
            given[path] = str(last).replace(" ", "")
    given |= {"data.validation": "windows", "model.dtype": "float16", "sweep.strategy": "fast"}
    given |= {"loss.name": "", "data.name": " ", "model.name": ""}
    # What the parser of a flag's type would take, or not be able to.
    given |= {
        "resume": "maybe",
        "data.download": "yes",
        "model.remat": "no",
        "data.fold": "None",
        "seed": "1e3",
        "train.factor": "nan",
    }
    cases = [[f"--config.{path}={text}"] for path, text in given.items()]
    cases += [["--config.loss.gama=1"], ["--config.data={}"], ["--config.data.size[0]=1"]]
    done = subprocess.run(
        [sys.executable, "-c", FORKS], input=json.dumps(cases), cwd=tmp_path, text=True,
        capture_output=True, check=True, env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    answers = json.loads(done.stdout)
    for (path, text), (said, loaded) in zip(given.items(), answers, strict=False):
        assert said.startswith(f"error: {path} is "), (path, text, said)
        assert "; it must be " in said and len(said.splitlines()) == 1
        assert not loaded
    assert [said for said, _ in answers[len(given) :]] == [
        "error: the config has no field loss.gama, did you mean loss.gamma?\n",
        "error: data is a group of fields; set one of them, such as data.name\n",
        "error: the config has no field data.size[0], did you mean data.size?\n",
    ]
    assert not list(tmp_path.iterdir())
