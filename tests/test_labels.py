"""What values in a user's masks mean: the same in every file of a set, told, or refused."""

import re

import layouts
import numpy as np
import pytest
from PIL import Image
from test_folder import SIZE, describe, image, label, save, smooth

from configs import folder
from dicepp_jax.data import load
from dicepp_jax.data.builder import fingerprint
from dicepp_jax.data.preparation import prepare
from experiments.setup import components
from experiments.workdirs import data_card

BLACK, WHITE, RED, GREEN = (0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0)
YELLOW = (255, 255, 0)


def indexed(index, *colours):
    """An image of indices into a palette."""
    picture = Image.fromarray(index.astype(np.uint8))
    picture.putpalette([part for colour in colours for part in colour])
    return picture


def in_colour(drawn, *colours):
    """Classes as colours."""
    return Image.fromarray(np.array(colours, np.uint8)[drawn])


def write(root, masks, ending="png"):
    """Write grey images and these masks, which are arrays or pictures."""
    for number, mask in enumerate(masks):
        save(root / "images" / f"{number}.png", image(number))
        path = root / "masks" / f"{number}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        (Image.fromarray(mask) if isinstance(mask, np.ndarray) else mask).save(path)


def labels(root, **options):
    """The classes, what is told, and the label maps."""
    spec, told, cases = describe(root, **options)
    return spec.classes, told, [case.read().label for case in cases.values()]


def refused(root, **options):
    """The error message."""
    with pytest.raises(ValueError) as caught:
        describe(root, **options)
    return str(caught.value)


# Masks that are none


def colour(number):
    return image(number, channels=(3,))


@pytest.mark.parametrize("options", [{}, {"classes": ("background", "polyp")}])
@pytest.mark.parametrize(
    "photograph",
    [colour, image, lambda number: np.where(image(number) > 250, 255, image(number) // 8)],
    ids=["colour", "grey", "dark"],
)
def test_swapped_images_and_masks_are_refused(tmp_path, photograph, options):
    root = tmp_path / "set"
    for number in range(3):
        save(root / f"images/{number}.png", 255 * label(number))
        save(root / f"masks/{number}.png", photograph(number).astype(np.uint8))
    message = refused(root, **options)
    kinds = len(np.unique(photograph(0).reshape(-1, photograph(0)[0, 0].size), axis=0))
    assert f"masks/0.png is not a mask: it has {kinds} different " in message
    assert "(3 of 3 masks are like this)" in message
    assert "images/0.png has only 2 values, so images and masks are swapped" in message
    assert (
        "--config.folder.images='masks/{case}.*' --config.folder.masks='images/{case}.*'" in message
    )


def test_a_photograph_among_masks_is_refused(tmp_path):
    write(tmp_path / "set", [label(0), colour(1), label(2)])
    message = refused(tmp_path / "set")
    kinds = len(np.unique(colour(1).reshape(-1, 3), axis=0))
    assert f"masks/1.png is not a mask: it has {kinds} different colours" in message
    assert "(1 of 3 masks are like this); are images and masks swapped (" in message


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_a_grey_photograph_and_a_map_of_probabilities_are_refused(tmp_path, ending):
    ramp = np.linspace(0, 255, SIZE[0] * SIZE[1]).reshape(SIZE).astype(np.uint8)
    write(tmp_path / "set", [255 * label(0), ramp], ending)
    message = refused(tmp_path / "set")
    assert "set/masks/1." in message and "indicate an image, a map of probabilities, or" in message
    assert "are images and masks swapped (--config.folder.images, " in message


@pytest.mark.parametrize("ending", ["npy", "tif"])
def test_fractions_are_refused(tmp_path, ending):
    save(tmp_path / "set/images/a.png", image())
    save(tmp_path / f"set/masks/a.{ending}", (label() * 0.75).astype(np.float32))
    message = refused(tmp_path / "set")
    assert f"masks/a.{ending} contains 0.75, expected a label map of whole numbers" in message
    assert "if these are probabilities, apply a threshold" in message


def test_a_transposed_mask_is_refused(tmp_path):
    write(tmp_path / "set", [label(0), label(1).T.copy()])
    _, _, cases = describe(tmp_path / "set")
    message = "1.png has 24 x 20; all files of a case must have the same size. One of them seems to"
    with pytest.raises(ValueError, match=f"{message} be transposed: exchange its axes"):
        cases["1"].read()


def test_swapped_folders_of_a_published_set_are_refused(tmp_path):
    written = layouts.cvc_clinicdb(tmp_path / "files")
    for old, new in (("Original", "x"), ("Ground Truth", "Original"), ("x", "Ground Truth")):
        (tmp_path / "files" / old).rename(tmp_path / "files" / new)
    with pytest.raises(ValueError) as caught:
        load("cvc_clinicdb", str(tmp_path / "prepared"), str(tmp_path / "files"))
    message = str(caught.value)
    assert f"{len(written)} of the {len(written)} cases of CVC-ClinicDB cannot be used" in message
    assert "Ground Truth/1.tif is not a mask: it has " in message
    assert "expected two values. Are images and masks swapped?" in message


# Palettes and colours


def test_palettes_that_agree_are_read_by_index(tmp_path):
    empty = np.zeros(SIZE, np.uint8)
    drawn = [label(0, classes=3), empty, label(2)]
    write(
        tmp_path / "set",
        [
            indexed(drawn[0], WHITE, RED, BLACK),
            indexed(empty, WHITE),
            indexed(drawn[2], WHITE, RED),
        ],
    )
    classes, told, read = labels(tmp_path / "set")
    assert classes == ("background", "class_1", "class_2")
    assert "of all masks: 0 (255) = background, 1 (#ff0000) = class_1, 2 (0) = class_2" in told
    np.testing.assert_array_equal(read, drawn)


def test_palettes_that_disagree_are_read_by_colour(tmp_path):
    drawn = [label(0, classes=3), 2 * label(1), label(2)]
    write(
        tmp_path / "set",
        [
            indexed(drawn[0], BLACK, GREEN, RED),
            indexed(drawn[1] // 2, BLACK, RED),  # Here, 1 is another colour.
            in_colour(drawn[2], BLACK, GREEN, RED),
        ],
    )
    classes, told, read = labels(tmp_path / "set")
    assert "of all masks: 0 = background, #00ff00 = class_1, #ff0000 = class_2" in told
    assert """--config.folder.mask_values="(0,'#00ff00','#ff0000')\"""" in told
    np.testing.assert_array_equal(read, drawn)
    named = {"classes": ("none", "tumour", "liver"), "mask_values": ("#000000", "#FF0000")}
    named["mask_values"] += ("#00ff00",)
    classes, told, read = labels(tmp_path / "set", **named)
    assert "of all masks: 0 = none, #ff0000 = tumour, #00ff00 = liver" in told
    np.testing.assert_array_equal(read, np.array([0, 2, 1])[np.array(drawn)])
    assert "folder.classes does not say which is which" in refused(
        tmp_path / "set", classes=named["classes"]
    )


def test_grey_palettes_are_read_by_their_grey(tmp_path):
    drawn = [label(0), label(1), label(2)]
    write(
        tmp_path / "set",
        [indexed(drawn[0], BLACK, WHITE), indexed(1 - drawn[1], WHITE, BLACK), 255 * drawn[2]],
    )
    classes, told, read = labels(tmp_path / "set")
    assert classes == ("background", "foreground")
    assert "of all masks: 0 = background, 255 = foreground" in told
    np.testing.assert_array_equal(read, drawn)


def test_palettes_of_one_colour_are_read_by_index(tmp_path):
    drawn = [label(0, classes=3), label(1, classes=3)]
    write(tmp_path / "set", [indexed(mask, BLACK, BLACK, BLACK) for mask in drawn])
    np.testing.assert_array_equal(labels(tmp_path / "set")[2], drawn)


def test_nearly_grey_palettes_of_two_colours_are_binary(tmp_path):
    drawn = [label(0), label(1)]
    write(tmp_path / "set", [indexed(mask, (4, 2, 4), (252, 254, 252)) for mask in drawn])
    _, told, read = labels(tmp_path / "set")
    assert "of all masks: 3 = background, 253 = foreground" in told
    np.testing.assert_array_equal(read, drawn)


def test_colours_without_a_certain_background_are_refused(tmp_path):
    drawn = label(0)
    root = tmp_path / "set"
    write(root, [in_colour(drawn, BLACK, RED), in_colour(drawn, WHITE, RED)])
    assert "masks/1.png has white but no black, and other masks have black" in refused(root)
    read = labels(root, mask_values=(0, 255, "#ff0000"))[2]
    np.testing.assert_array_equal(read, [2 * drawn, 1 + drawn])
    write(root, [in_colour(drawn, GREEN, RED)] * 2)
    assert "#00ff00, #ff0000, of which none is black or white, the background" in refused(root)
    assert "'red' in folder.mask_values is neither a number nor a colour such as" in refused(
        root, mask_values=("#00ff00", "red")
    )
    write(root, [in_colour(drawn, BLACK, RED), 255 * drawn])
    assert "masks/1.png has the grey values 0, 255, and other masks have colours" in refused(root)


def test_a_new_colour_prepares_the_set_again(tmp_path):
    root, prepared = tmp_path / "set", str(tmp_path / "prepared")
    drawn = [label(0), label(1)]
    write(root, [in_colour(mask, BLACK, RED) for mask in drawn])
    stamps, stored = [], []
    for second in (YELLOW, GREEN):  # The file of case 0 stays; the class of red does not.
        in_colour(drawn[1], BLACK, second).save(root / "masks/1.png")
        spec, _, cases = describe(root)
        stamps.append(fingerprint(spec, [cases["0"]]))
        builder = prepare(spec, lambda cases=cases: list(cases.values()), prepared)
        stored.append(builder.as_data_source("cases")[0]["label"])
    assert stamps[0] != stamps[1]
    np.testing.assert_array_equal(stored, [drawn[0], 2 * drawn[0]])


def test_the_table_is_on_the_card(tmp_path):
    drawn = [label(number, classes=3) for number in range(5)]
    write(tmp_path / "set", [in_colour(mask, BLACK, GREEN, RED) for mask in drawn])
    config = folder.get_config()
    config.data.manual_dir = str(tmp_path / "set")
    config.data.data_dir = str(tmp_path / "prepared")
    source = components.find_data(config)
    data_card.write_card(components.open_data(config, source), tmp_path / "card")
    card = (tmp_path / "card/card.txt").read_text()
    assert "values of all masks: 0 = background, #00ff00 = class_1, #ff0000 = class_2\n" in card
    assert "  classes  " in card


# Grey values


@pytest.mark.parametrize("declared", [{}, {"classes": ("none", "vessel")}])
def test_binary_masks_of_different_encodings_are_one_set(tmp_path, declared):
    drawn = [label(number) for number in range(4)]
    write(
        tmp_path / "set",
        [drawn[0], 255 * drawn[1], drawn[2].astype(bool), drawn[3] * np.uint16(65535)],
    )
    classes, told, read = labels(tmp_path / "set", **declared)
    assert classes == declared.get("classes", ("background", "foreground"))
    assert "binary masks of several encodings, 0 and 1 (2), 0 and 255 (1), 0 and 65535 (1)" in told
    np.testing.assert_array_equal(read, drawn)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (((0, 128), (0, 255)), "Each mask has at most one value besides 0: if they mean the same"),
        (((0, 1, 255), (0, 255)), "255 often marks pixels to ignore"),
        (((0, 127, 255), (0, 255)), "values near 127 uncertain ones; they must be one of the"),
    ],
)
def test_values_of_several_meanings_are_refused(tmp_path, values, message):
    masks = [np.resize(np.array(kinds, np.uint8), SIZE) for kinds in values]
    write(tmp_path / "set", masks)
    told = refused(tmp_path / "set")
    assert message in told
    given = re.search(r"--config\.folder\.mask_values='\((.*?)\)'", told)[1]
    options = tuple(map(int, given.split(",")))
    read = labels(tmp_path / "set", mask_values=options)[2]
    np.testing.assert_array_equal(np.array(options)[np.array(read)], masks)


def test_a_few_values_near_two_are_noise_where_two_classes_are_declared(tmp_path):
    drawn = [label(0), label(1)]
    rng = np.random.default_rng([8, 1])
    masks = [np.where(mask, 253, 0) + rng.integers(0, 3, SIZE) for mask in drawn]
    write(tmp_path / "set", [mask.astype(np.uint8) for mask in masks])
    message = refused(tmp_path / "set")
    assert "contain the values 0, 1, 2, 253, 254 and 1 more, expected 0, 1, 2, ..." in message
    assert "declare two classes by --config.folder.classes=background,NAME" in message
    np.testing.assert_array_equal(labels(tmp_path / "set", classes=("none", "polyp"))[2], drawn)


def test_one_among_grey_values_is_refused(tmp_path):
    noise = np.random.default_rng([8, 0]).integers(0, 20, smooth().shape)
    root = tmp_path / "set"
    for number, mask in enumerate([(255 * smooth() ^ noise).astype(np.uint8), smooth()]):
        save(root / f"images/{number}.png", image(number, mask.shape))
        save(root / f"masks/{number}.png", mask)
    message = refused(root, classes=("background", "polyp"))
    assert "masks/1.png has the values 0 and 1, but other masks have " in message
    assert "so 1 may be foreground or noise" in message


@pytest.mark.parametrize(
    ("values", "declared"),
    [
        ((0, *range(26, 34)), {}),
        ((0, 85, 170), {}),
        ((0, 100), {}),
        ((0, 300, 600), {}),
        ((0, 128, 255), {"classes": ("none", "edge", "inside")}),
    ],
)
def test_other_values_are_classes_in_their_order(tmp_path, values, declared):
    drawn = [label(number, classes=len(values)) for number in range(2)]
    write(tmp_path / "set", [np.array(values, np.uint16)[mask] for mask in drawn])
    classes, told, read = labels(tmp_path / "set", **declared)
    assert classes == declared.get("classes", classes) and len(classes) == len(values)
    table = ", ".join(f"{v} = {name}" for v, name in zip(values, classes, strict=True))
    assert f"values of all masks: {table}" in told
    np.testing.assert_array_equal(read, drawn)


def test_grey_images_among_colour_images_are_told(tmp_path):
    root = tmp_path / "set"
    for number in range(3):
        save(root / f"images/{number}.png", image(number) if number == 1 else colour(number))
        save(root / f"masks/{number}.png", label(number))
    _, told, cases = describe(root)
    assert "grey images among colour images (1): 1; they get three equal channels" in told
    np.testing.assert_array_equal(cases["1"].read().image, np.stack([image(1)] * 3, -1))


# EXIF


def turned(array, orientation, path):
    """Write what a camera writes that was held as the orientation says."""
    # The inverses of 6 and 8 are each other; all others are their own.
    back = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    back |= {1: None, 3: Image.Transpose.ROTATE_180}
    picture = Image.fromarray(array)
    exif = Image.Exif()
    exif[274] = orientation
    stored = picture.transpose(back[orientation]) if back[orientation] else picture
    path.parent.mkdir(parents=True, exist_ok=True)
    stored.save(path, exif=exif)


@pytest.mark.parametrize("with_mask", [False, True])
@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_images_and_masks_are_turned_upright(tmp_path, orientation, with_mask):
    root = tmp_path / "set"
    for number in range(3):
        held = orientation if number == 1 else 1
        turned(image(number), held, root / f"images/{number}.png")
        turned(label(number), held if with_mask else 1, root / f"masks/{number}.png")
    _, told, cases = describe(root)
    count = "2 files were" if with_mask else "1 file was"
    assert f"EXIF orientation: {count} turned upright, of the cases 1; a mask without" in told
    np.testing.assert_array_equal(cases["1"].read().image[..., 0], image(1))
    np.testing.assert_array_equal(cases["1"].read().label, label(1))


def test_a_mask_drawn_on_the_stored_pixels_is_refused(tmp_path):
    root = tmp_path / "set"
    turned(image(), 6, root / "images/a.png")
    save(root / "masks/a.png", label(0, SIZE[::-1]))
    _, _, cases = describe(root)
    message = r"EXIF data had .*images/a\.png by orientation 6 turned upright, but the other file"
    with pytest.raises(ValueError, match=message):
        cases["a"].read()
