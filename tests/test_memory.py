"""The reported memory of a training step, and that reporting it costs no compilation."""

import contextlib
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import base
from dicepp_jax import train
from experiments.setup import components
from experiments.setup.device_memory import device_limit
from experiments.training import step_memory
from experiments.training.step_memory import Memory

GIB = 2**30
TOO_MUCH = Memory(0, 0, 0, 32 * GIB)
COMPILED = "/jax/core/compile/backend_compile_duration"


def tiny(**fields):
    """A small 2-D network's config and its parts, without data."""
    config = base.get_config()
    config.data.size = (32, 48)
    config.model.filters = 2
    config.model.depth = 1
    config.update_from_flattened_dict(fields)
    return config, components.build_without_data(config)


@contextlib.contextmanager
def compilations():
    """A list that grows by the name of each program that XLA compiles."""
    names = []

    def listen(event, seconds, **about):
        if event == COMPILED:
            names.append(about["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield names
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def step_of(made):
    return train.make_train_step(made.apply, made.loss, None)


def test_parameters_optimiser_and_batch_are_counted_and_activations_grow_with_the_batch():
    config, made = tiny()
    state, key = components.state_shapes(made), components.step_key(0)
    one, three = (
        step_memory.measure(step_of(made), state, step_memory.batch_shapes(made, n), key)
        for n in (1, 3)
    )
    floats = 4 * sum(x.size for x in jax.tree.leaves(state.params))
    assert one[:3] == (floats, floats, 4 * 32 * 48 * (3 + 1))
    # At least the output of a block of two filters is stored.
    assert one.activations > 4 * 32 * 48 * 2
    assert three.batch == 3 * one.batch and three.activations > 2 * one.activations


@pytest.mark.parametrize("restored", [False, True], ids=["new", "restored"])
def test_the_step_is_compiled_once(restored):
    _, made = tiny()
    state, key, step = components.init_state(made, 0), components.step_key(0), step_of(made)
    if restored:  # As `Checkpoints.restore` returns it, on one device.
        state = jax.device_put(state, jax.devices()[0])
    image = np.ones((2, 32, 48, 3), np.float32)
    batch = {"image": image, "label": np.zeros((2, 32, 48), np.int32), "id": np.array(["a", "b"])}
    with compilations() as compiled:
        step_memory.measure(step, state, step_memory.batch_shapes(made, 2), key)
        assert len(compiled) == 1
        for rate in (0.1, 0.01):
            state, _ = step(state, batch, key, rate)
    assert len(compiled) == 1


def test_what_fits_is_reported_in_one_line():
    config, made = tiny()
    lines = step_memory.report(Memory(2 * 2**20, 3 * 2**20, 2**20, 5 * GIB), 6 * GIB, config, made)
    assert lines == [
        "a training step takes 5.01 GiB of 6.00 GiB (parameters 2.0 MiB, optimiser 3.0 MiB, "
        "batch 1.0 MiB, activations 5.00 GiB)"
    ]


def remedies(fields, taken=TOO_MUCH):
    """The options that are listed, with the share of the activations and the GiB of each."""
    config, made = tiny(**fields)
    first, *lines = step_memory.report(taken, 8 * GIB, config, made)
    assert "it does not fit" in first
    found = [re.match(r"  --config\.(\S+)=(\S+): ([\d.]+) GiB in all.* \((\d+)%", x) for x in lines]
    return {m[1]: (m[2], int(m[4]) / 100, float(m[3])) for m in found}, lines


def test_options_that_take_less_are_listed_in_order_and_fit():
    listed, _ = remedies({"model.filters": 16, "data.batch_size": 8, "data.size": (96, 160)})
    assert list(listed) == [
        "model.remat", "model.dtype", "data.batch_size", "data.size", "model.filters",
    ]  # fmt: skip
    assert [value for value, _, _ in listed.values()][:3] == ["True", "bfloat16", "2"]
    for name, (_, share, needed) in listed.items():
        assert 0 < share < 1 and needed == pytest.approx(32 * share, abs=0.2)
        if name in ("data.batch_size", "data.size", "model.filters"):
            assert needed < 8.4, name
    size = eval(listed["data.size"][0].strip("'"))
    assert all(n % 16 == 0 for n in size) and np.prod(size) <= 96 * 160 / 4
    # No larger size of these proportions would fit.
    assert np.prod(np.add(size, 16)) > 96 * 160 / 4
    # A quarter of the filters would fit, were it not for the image and the logits.
    assert listed["model.filters"][0] == "2"


def test_options_that_are_set_or_would_not_help_are_not_listed():
    fields = {"model.remat": True, "model.dtype": "bfloat16", "data.size": (16, 16)}
    assert remedies(fields)[0] == {}
    # The parameters alone do not fit.
    assert remedies({**fields, "data.size": (32, 32)}, Memory(9 * GIB, 0, 0, GIB))[0] == {}


def test_a_cpu_is_said_to_save_little_by_what_helps_an_accelerator():
    _, lines = remedies({"model.filters": 16})
    assert all("on an accelerator" in line for line in lines[:2]) and len(lines) > 2
    assert not any("on an accelerator" in line for line in lines[2:])


def test_the_limit_is_the_accelerators_or_the_machines(monkeypatch):
    class Device:
        def memory_stats(self):
            return {"bytes_limit": 12345, "bytes_in_use": 1}

    memory_kb = re.search(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    assert device_limit() == pytest.approx(1024 * int(memory_kb[1]), rel=0.01)
    monkeypatch.setattr(jax, "local_devices", lambda: [Device()])
    assert device_limit() == 12345


def test_the_command_needs_no_data_and_writes_nothing(tmp_path):
    fields = ["--config.data.size=(32,32,16)", "--config.model.filters=2", "--config.model.depth=1"]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.memory", "--config=configs/kits19_dscpp.py",
         f"--config.data.data_dir={tmp_path / 'none'}", *fields],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    announced, first, second = done.stdout.splitlines()
    assert announced.startswith("compiling a step")
    assert first.startswith("KiTS19 at patches of 32 x 32 x 16, UNet of")
    assert re.search(r"on \S+, compiled in \d+ s$", first)
    assert second.startswith("a training step takes") and "does not fit" not in second
    assert not (tmp_path / "none").exists()
