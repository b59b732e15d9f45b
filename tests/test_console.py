"""The command `dicepp`, and configs found by name from any folder."""

import json
import subprocess
import sys

import pytest

from experiments.console import COMMANDS

HEAVY = {"jax", "flax", "orbax", "tensorflow_datasets", "matplotlib", "scipy"}
QUICK = sorted(COMMANDS)


def dicepp(folder, *arguments):
    """Run the console command somewhere else than in the repository."""
    code = "from experiments.console import main; main()"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_help_lists_every_command(tmp_path):
    shown = dicepp(tmp_path, "--help")
    assert shown.returncode == 0
    for name, line in COMMANDS.items():
        assert f"  {name:9}  {line}\n" in shown.stdout


def test_an_unknown_command_is_refused_with_the_nearest(tmp_path):
    refused = dicepp(tmp_path, "predikt")
    assert refused.returncode == 1
    assert "error: unknown command 'predikt', did you mean predict?" in refused.stderr


@pytest.mark.parametrize("given", ["drive_gamma_grid", "configs/drive_gamma_grid.py"])
def test_a_config_is_found_by_name(tmp_path, given):
    refused = dicepp(tmp_path, "run", f"--config={given}")
    assert refused.returncode == 1
    assert "error: the config has a grid (sweep)" in refused.stderr
    assert not list(tmp_path.iterdir())


def test_a_config_that_does_not_exist(tmp_path):
    refused = dicepp(tmp_path, "run", "--config=nowhere/drive.py")
    assert refused.returncode == 1
    assert (
        "error: config nowhere/drive.py does not exist, did you mean drive_dscpp? Known by name: "
        in refused.stderr
    )
    assert "drive_dscpp, drive_gamma_grid" in refused.stderr


def test_a_main_that_parses_its_own_arguments(tmp_path):
    refused = dicepp(tmp_path, "report", "nowhere")
    assert refused.returncode == 1
    assert refused.stderr == "error: nowhere does not exist; give the --workdir of runs\n"


def test_a_fold_is_part_of_the_default_directory(tmp_path, data_dir):
    options = [f"--config.data.data_dir={data_dir}", "--config.data.fold=2"]
    done = dicepp(tmp_path, "prepare", "--config=quickstart", *options)
    assert done.returncode == 0, done.stderr
    (made,) = (tmp_path / "runs").iterdir()
    split = json.loads((made / "split.json").read_text())
    assert made.name == "quickstart_fold=2_data" and len(split["validation"]) == 8


def loaded_by(folder, *arguments):
    """A command that ends while its flags are parsed, and the heavy packages that it loaded."""
    code = (
        "import sys\n"
        "from experiments.console import main\n"
        "try: main()\n"
        f"finally: print('loaded:', *set(sys.modules) & {HEAVY})"
    )
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    *_, loaded = done.stdout.splitlines()
    assert loaded.startswith("loaded:")
    return done, set(loaded.split()[1:])


@pytest.mark.parametrize("name", QUICK)
def test_help_loads_no_heavy_package(tmp_path, name):
    shown, loaded = loaded_by(tmp_path, name, "--help")
    assert not loaded and shown.returncode == 0
    assert "--workdir" in shown.stdout or "usage: " in shown.stdout


@pytest.mark.parametrize("name", QUICK)
def test_an_unknown_flag_is_refused_before_anything_heavy_is_loaded(tmp_path, name):
    refused, loaded = loaded_by(tmp_path, name, "--nonsense=1")
    assert refused.returncode != 0 and "Traceback" not in refused.stderr
    assert not loaded


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--config=nowhere"], "config nowhere does not exist"),
        (["run", "--config.loss.gama=1"], "no field loss.gama, did you mean loss.gamma?"),
        (
            ["run", "--config.train.epochs=many"],
            "train.epochs is 'many'; it must be a whole number",
        ),
        (["run", "--config.train.epochs=0"], "train.epochs is 0; it must be a whole number"),
        (["prepare", "--config=paper:x"], "unknown cell 'x', expected SCALE/DATASET/METHOD"),
        (["sweep", "--processes=2"], "this command runs as one process"),
        (["run", "unexpected"], "unexpected unexpected"),
        (["predict", "--probabilities=int4"], "invalid choice: 'int4'"),
        (["report", "--figures=some", "RUN"], "invalid choice: 'some'"),
        (["reproduce", "--scale=huge"], "'huge' is not a scale; known: full"),
        (["reproduce", "--table=7"], "invalid choice: 7"),
        (["shift", "RUN", "--corruptions=fog"], "'fog' is no corruption; known: blur, noise"),
        (["calibrate", "RUN", "RUN"], "several runs need --output=DIR"),
    ],
)
def test_mistakes_in_flags_are_answered_before_anything_heavy_is_loaded(
    tmp_path, arguments, message
):
    refused, loaded = loaded_by(tmp_path, *arguments)
    assert refused.returncode != 0
    assert message in refused.stdout + refused.stderr
    assert not loaded
