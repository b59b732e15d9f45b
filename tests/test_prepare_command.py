"""`python -m experiments.prepare`: the card, the split and the contact sheet of a set."""

import json
import subprocess
import sys
from pathlib import Path

import layouts
import numpy as np
import pytest
from PIL import Image

from configs import base, folder
from experiments.setup import components
from experiments.workdirs import data_card

ROOT = Path(__file__).parent.parent


def config_of(name, files, data_dir):
    config = folder.get_config() if name == "folder" else base.get_config()
    config.data.name, config.data.manual_dir, config.data.data_dir = name, str(files), data_dir
    return config


def prepare(config, workdir):
    source = components.find_data(config)
    return data_card.write_card(components.open_data(config, source), workdir)


def test_card_split_and_contact_sheet_of_an_incomplete_set(tmp_path):
    layouts.bus2017(tmp_path / "files")
    mask = tmp_path / "files" / "GT" / "000001.png"
    layouts.write_mask(mask, np.zeros((21, 25), np.uint8))
    config = config_of("bus2017", tmp_path / "files", str(tmp_path / "prepared"))
    text = prepare(config, tmp_path / "first")
    assert text.startswith("BUS2017\n")
    assert "9: 6 train, 1 validation, 2 test; the complete set has 163: 104, 26, 33" in text
    assert "odd: the mask has no foreground (1 case): 000001" in text
    card = (tmp_path / "first" / "card.txt").read_text()
    assert text.startswith(card.rstrip("\n"))
    split = json.loads((tmp_path / "first" / "split.json").read_text())
    assert {part: len(ids) for part, ids in split.items()} == {
        "train": 6, "validation": 1, "test": 2,
    }  # fmt: skip
    with Image.open(tmp_path / "first" / "contact_sheet.png") as image:
        assert min(image.size) > 200
    # What was written is a list of splits.
    config.data.split_file = str(tmp_path / "first" / "split.json")
    assert prepare(config, tmp_path / "again") == text.replace(
        str(tmp_path / "first"), str(tmp_path / "again")
    )


def test_many_odd_cases_are_one_line_on_the_screen_and_named_in_the_file(tmp_path):
    written = layouts.cvc_clinicdb(tmp_path / "files", numbers=range(1, 31))
    config = config_of("cvc_clinicdb", tmp_path / "files", str(tmp_path / "prepared"))
    text = prepare(config, tmp_path / "first")
    (odd,) = (line for line in text.splitlines() if "where the set's images are 288 x 384" in line)
    assert odd.endswith("(30 cases): 1; 2; 3; 4; 5 and 25 more")
    card = (tmp_path / "first" / "card.txt").read_text()
    assert odd.replace("5 and 25 more", "; ".join(map(str, range(5, 31)))) in card
    assert len(written) == 30 and f"  all of them: {tmp_path / 'first' / 'card.txt'}" in text


def test_a_folder_of_one_s_own(tmp_path, capsys):
    for number in range(5):
        rng = np.random.default_rng([1, number])
        image = rng.integers(0, 256, (40, 50, 3), np.uint8)
        mask = (rng.random((40, 50)) < 0.3).astype(np.uint8)
        layouts.write_rgb(tmp_path / "files" / f"{number}.png", image)
        layouts.write_mask(tmp_path / "files" / f"{number}_mask.png", mask)
    config = config_of("folder", tmp_path / "files", str(tmp_path / "prepared"))
    text = prepare(config, tmp_path / "first")
    told = capsys.readouterr().out
    assert "layout: " in told and "--config.folder.masks='{case}_mask.*'" in told
    assert "5: 3 train, 1 validation, 1 test" in text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--config.data.manual_dir=NO"],
            "error: DRIVE needs --config.data.manual_dir; NO does not exist",
        ),
        (["--config.data.split=video"], "error: data.split is 'video', expected random or group"),
        (["--config.folder.images=x"], "error: folder.images is set, but data.name is drive"),
        (["--config.data.download=True"], "error: DRIVE cannot be downloaded automatically. 1."),
    ],
)
def test_a_wrong_command_ends_in_one_clear_line(tmp_path, flags, message):
    command = [
        *(sys.executable, "-m", "experiments.prepare", "--config=configs/drive_dscpp.py"),
        *(f"--config.data.data_dir={tmp_path}", f"--workdir={tmp_path / 'work'}", *flags),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "first").exists()
