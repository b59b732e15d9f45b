"""The cells of the paper's tables, and the configs that reproduce them."""

import pytest

from configs import base
from configs import paper as cells
from dicepp_jax.data import SETS
from dicepp_jax.losses import LOSSES
from experiments.report import groups
from experiments.report.published import COLUMNS, GAMMAS, PAPER, TABLES, TITLES, published
from experiments.setup import components
from experiments.workdirs.finished import Scale


@pytest.mark.parametrize("number", PAPER)
def test_tables_have_the_cells_that_are_published(number):
    table = TABLES[number]
    rows = [cell for cell in published() if cell.table == number]
    assert [d for d in dict.fromkeys(cell.dataset for cell in rows)] == list(table.datasets)
    for dataset in table.datasets:
        labels = SETS[dataset].spec.classes[1:]
        assert [cell[2:5] for cell in rows if cell.dataset == dataset] == [
            (label, method, metric)
            for label in labels
            for method in table.methods
            for metric in COLUMNS
        ]
    for pair in table.pairs:
        assert set(pair) <= set(table.methods)


def test_every_loss_has_a_title():
    assert set(TITLES) >= {
        term
        for table in TABLES.values()
        for name in table.methods
        if "=" not in name
        for term in name.split("+")
    }
    assert set(TITLES) <= set(LOSSES)


@pytest.mark.parametrize("scale", cells.SCALES)
def test_every_cell_has_a_config(scale):
    for table in TABLES.values():
        for dataset in (*table.datasets, *table.drawn):
            for method in table.methods:
                name = cells.GAMMA if method.startswith("gamma=") else method
                config = cells.get_config(f"{scale}/{dataset}/{name}")
                assert config.data.name == dataset
                assert set(config) == set(base.get_config())
                grid = tuple(f"gamma={gamma:g}" for gamma in config.sweep.gamma)
                if grid:
                    assert config.loss.name == "dscpp" and grid == GAMMAS
                else:
                    # Of hyper-parameters that are not set the loss has those of Table 2.
                    assert config.loss.name == method and not components.hyper(config)


@pytest.mark.parametrize("method", cells.BASELINES)
def test_a_baseline_is_the_dice_loss_but_for_its_fields(method):
    config = cells.get_config(f"reduced/drive/{method}_seed=1")
    changed = cells.BASELINES[method]
    assert config.loss.name == "dsc" and config.seed == 1 and len(changed) == 2
    config.update_from_flattened_dict({name: base.FIELDS[name].default for name in changed})
    config.loss.name = "dsc"
    assert config == cells.get_config("reduced/drive/dsc_seed=1")


def test_a_cell_of_a_sum():
    config = cells.get_config("tiny/drive/dscpp+l1_ace_seed=2")
    assert (config.loss.name, config.seed) == ("dscpp+l1_ace", 2)


def test_a_scale_by_size_has_the_papers_schedule():
    config = cells.get_config("128x16/dsb2018/dsc_seed=2")
    assert (config.data.size, config.model.filters, config.seed) == ((128, 128), 16, 2)
    config.data.size, config.model.filters, config.seed = (), 32, 0
    assert config == cells.get_config("full/dsb2018/dsc")


@pytest.mark.parametrize(
    "cell", ["256x32/kits19/dsc", "0x8/drive/dsc", "256/drive/dsc", "half/drive/dsc"]
)
def test_scales_that_there_are_not(cell):
    with pytest.raises(LookupError, match="SCALE: full, reduced, tiny, or SIDExFILTERS"):
        cells.get_config(cell)


@pytest.mark.parametrize(
    ("size", "filters", "epochs", "name"),
    [
        ((256, 256), 32, 1000, "256x32"),
        ((512, 512), 32, 1000, "full"),
        ((96, 96), 8, 120, "reduced"),
        ((256, 128), 32, 1000, groups.CUSTOM),
        ((256, 256), 32, 999, groups.CUSTOM),
    ],
)
def test_scales_have_names(size, filters, epochs, name):
    patience = (10, 20) if name == "reduced" else (25, 50)
    scale = Scale(size, filters, 4, epochs, *patience)
    assert groups.scale_name(scale, SETS["drive"].spec) == name


def test_full_scale_is_the_papers():
    for dataset in cells.SETS:
        config = cells.get_config(f"full/{dataset}/ce_seed=7")
        assert config.seed == 7
        assert (config.model.filters, config.model.depth, config.train.epochs) == (32, 4, 1000)
        patience = (5, 10) if dataset == "kits19" else (25, 50)
        assert (config.train.patience, config.train.stop_patience) == patience
        assert config.data.size == () and config.inference.overlap == 0.5


@pytest.mark.parametrize(
    "cell",
    [
        "drive/dscpp",
        "half/drive/dsc",
        "full/mnist/dsc",
        "full/drive/dice",
        "tiny/drive/ce_",
        "tiny/drive/ce+",
    ],
)
def test_a_cell_that_is_not_there_is_refused(cell):
    with pytest.raises(LookupError, match="unknown cell .*reduced/drive/dscpp"):
        cells.get_config(cell)
