"""Images, masks and label maps in any encoding, and files that are refused by name."""

import re
import struct
import zlib
from pathlib import Path

import layouts
import numpy as np
import pytest
import tifffile
from PIL import Image

from dicepp_jax.data import readers
from dicepp_jax.data.files import from_path, tree

RNG = np.random.default_rng([3, 0])
MASK = (RNG.random((17, 23)) < 0.3).astype(np.uint8)
IN_RGB = np.stack([MASK] * 3, -1)
COLOUR = RNG.integers(0, 256, (29, 31, 3), np.uint8)
GREY = COLOUR[..., 0]
DEEP = RNG.integers(0, 65536, (29, 31, 3), np.uint16)
REAL = (GREY / 7).astype(np.float32)
CLASSES = RNG.integers(0, 5, (29, 31), np.uint8)
HUE = RNG.integers(-3, 4, IN_RGB.shape)
ALL = (readers.read_rgb, readers.read_image, readers.read_mask, readers.read_label)


def pillow(array, mode=None, **options):
    """Writes what Pillow makes of an array."""
    image = Image.fromarray(array)
    return lambda path: (image.convert(mode) if mode else image).save(path, **options)


def tiff(array, photometric="minisblack", **options):
    """Writes a TIFF by tifffile."""
    return lambda path: tifffile.imwrite(
        path, array, photometric=photometric, metadata=None, **options
    )


def numpy(array):
    """Writes an NPY."""
    return lambda path: np.save(path, array, allow_pickle=True)


def palette(index, colours):
    """Writes an image of indices into colours."""
    image = Image.fromarray(index)
    image.putpalette(np.asarray(colours, np.uint8).tobytes())
    return lambda path: image.save(path)


def write_deep_png(path, colours):
    """Write an RGB PNG of 16 bits per colour, which Pillow cannot."""
    height, width, _ = colours.shape
    rows = np.pad(colours.astype(">u2").view(np.uint8).reshape(height, -1), ((0, 0), (1, 0)))
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0),
        b"IDAT": zlib.compress(rows.tobytes()),
        b"IEND": b"",
    }
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in chunks.items():
        content += struct.pack(">I", len(data)) + name + data
        content += struct.pack(">I", zlib.crc32(name + data))
    path.write_bytes(content)


def write_inverted(path):
    """Write a TIFF of 16 bits with white as 0, compressed so that Pillow reads it."""
    Image.fromarray(DEEP[..., 0]).save(path, compression="tiff_lzw")
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[0].tags["PhotometricInterpretation"].overwrite(readers.MIN_IS_WHITE)


def with_alpha(array):
    alpha = np.arange(array.shape[0] * array.shape[1]).reshape(*array.shape[:2], 1)
    return np.concatenate([array, alpha.astype(array.dtype)], -1)


def planes(array):
    return np.ascontiguousarray(np.moveaxis(array, -1, 0))


def assert_equal(array, expected):
    assert array.dtype == expected.dtype
    np.testing.assert_array_equal(array, expected)


# Masks


@pytest.mark.parametrize(
    "encoding, suffix",
    [(encoding, suffix) for encoding in layouts.ENCODINGS for suffix in ("png", "tif")]
    + [("grey", "gif"), ("ones", "gif"), ("palette", "gif"), ("noisy", "gif"), ("boolean", "gif")],
)
def test_masks_of_any_encoding_are_read_alike(tmp_path, encoding, suffix):
    path = tmp_path / f"mask.{suffix}"
    layouts.write_mask(path, MASK, encoding)
    assert_equal(readers.read_mask(from_path(path)), MASK)


@pytest.mark.parametrize(
    "name, write",
    [
        ("ones in 16 bits.png", pillow(MASK.astype(np.uint16))),
        ("255 in 16 bits.png", pillow(MASK.astype(np.uint16) * 255)),
        ("noise in 16 bits.tif", pillow(np.where(MASK, 60000, DEEP[:17, :23, 0] // 4))),
        ("samples said to be grey.tif", lambda path: layouts.write_odd_tiff(path, 255 * IN_RGB)),
        ("deep samples.tif", tiff(65535 * np.uint16(IN_RGB), "rgb")),
        ("real.tif", tiff(MASK.astype(np.float32))),
        ("yes.tif", tiff(MASK.astype(bool))),
        ("yes.npy", numpy(MASK.astype(bool))),
        ("real.npy", numpy(MASK.astype(float))),
        ("one channel.npy", numpy(MASK[..., None])),
        ("inverted.tif", tiff(255 - 255 * MASK, "miniswhite")),
        ("inverted bits.tif", tiff(MASK == 0, "miniswhite")),
        ("deep inverted.tif", tiff(65535 - np.uint16(65535) * MASK, "miniswhite")),
        ("one bit.png", pillow(MASK.astype(bool))),
        ("noisy hue.png", pillow(np.clip(255 * IN_RGB + HUE, 0, 255).astype(np.uint8))),
        ("yellow on blue.png", palette(MASK, [[0, 0, 255], [255, 255, 0]])),
    ],
)
def test_rarer_masks_are_read_too(tmp_path, name, write):
    write(tmp_path / name)
    assert_equal(readers.read_mask(from_path(tmp_path / name)), MASK)


def test_the_palette_is_what_it_is_said_to_be(tmp_path):
    layouts.write_mask(tmp_path / "mask.gif", MASK, "palette")
    with Image.open(tmp_path / "mask.gif") as image:
        assert image.mode == "P"
        assert np.unique(image.convert("L")).tolist() == [3, 253]


@pytest.mark.parametrize("value", [0, 1])
@pytest.mark.parametrize("encoding", ["grey", "ones", "boolean", "rgb", "uint16"])
def test_empty_and_full_masks_are_read(tmp_path, value, encoding):
    mask = np.full_like(MASK, value)
    layouts.write_mask(tmp_path / "mask.png", mask, encoding)
    assert_equal(readers.read_mask(from_path(tmp_path / "mask.png")), mask)


@pytest.mark.parametrize("value, foreground", [(127, 0), (128, 1)])
def test_the_border_of_a_noisy_mask_is_above_127(tmp_path, value, foreground):
    pillow(np.array([[0, value, 255]], np.uint8))(tmp_path / "a.png")
    mask = readers.read_mask(from_path(tmp_path / "a.png"))
    assert mask.tolist() == [[0, foreground, 1]]


# Images


@pytest.mark.parametrize(
    "name, write, expected",
    [
        ("colour.png", pillow(COLOUR), COLOUR),
        ("transparent.png", pillow(with_alpha(COLOUR)), COLOUR),
        ("grey.png", pillow(GREY), GREY[..., None]),
        ("transparent grey.png", pillow(with_alpha(GREY[..., None])), GREY[..., None]),
        ("16 bits.png", pillow(DEEP[..., 0]), DEEP[..., :1]),
        ("black and white.png", pillow(GREY > 99), 255 * np.uint8(GREY > 99)[..., None]),
        ("grey palette.png", pillow(GREY, "P"), GREY[..., None]),
        ("palette.png", palette(CLASSES, COLOUR[0]), COLOUR[0][CLASSES]),
        ("palette.gif", palette(CLASSES, COLOUR[0]), COLOUR[0][CLASSES]),
        ("palette.tif", palette(CLASSES, COLOUR[0]), COLOUR[0][CLASSES]),
        ("colour.bmp", pillow(COLOUR), COLOUR),
        ("lzw.tif", pillow(COLOUR, compression="tiff_lzw"), COLOUR),
        ("lzw grey.tif", pillow(DEEP[..., 0], compression="tiff_lzw"), DEEP[..., :1]),
        ("colour.tif", tiff(COLOUR, "rgb"), COLOUR),
        ("said to be grey.tif", lambda path: layouts.write_odd_tiff(path, COLOUR), COLOUR),
        ("planes.tif", tiff(planes(COLOUR), "rgb", planarconfig="separate"), COLOUR),
        ("deep.tif", tiff(DEEP, "rgb"), DEEP),
        ("deep.TIFF", tiff(DEEP, "rgb", byteorder=">"), DEEP),
        ("big.tif", tiff(DEEP, "rgb", bigtiff=True), DEEP),
        ("deep planes.tif", tiff(planes(DEEP), "rgb", planarconfig="separate"), DEEP),
        (
            "deep transparent.tif",
            tiff(with_alpha(DEEP), "rgb", extrasamples=["unassalpha"]),
            DEEP,
        ),
        ("inverted.tif", tiff(GREY, "miniswhite"), 255 - GREY[..., None]),
        ("deep inverted.tif", tiff(DEEP[..., 0], "miniswhite"), 65535 - DEEP[..., :1]),
        ("packed inverted.tif", write_inverted, 65535 - DEEP[..., :1]),
        (
            "inverted bits.tif",
            tiff(GREY > 99, "miniswhite"),
            255 * np.uint8(GREY <= 99)[..., None],
        ),
        ("real.tif", tiff(REAL), REAL[..., None]),
        ("double.tif", tiff(REAL.astype(float)), REAL[..., None]),
        ("signed.tif", tiff(GREY.astype(np.int16) - 99), GREY[..., None] - np.float32(99)),
        ("grey.npy", numpy(GREY), GREY[..., None]),
        ("four.npy", numpy(DEEP[..., [0, 1, 2, 0]]), DEEP[..., [0, 1, 2, 0]]),
        ("big endian.npy", numpy(DEEP.astype(">u2")), DEEP),
        ("double.npy", numpy(REAL.astype(float)), REAL[..., None]),
    ],
)
def test_images_come_as_they_are_stored(tmp_path, name, write, expected):
    write(tmp_path / name)
    assert_equal(readers.read_image(from_path(tmp_path / name)), expected)


def test_thumbnail_in_a_tiff_is_passed_over(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(COLOUR, photometric="rgb", metadata=None)
        writer.write(COLOUR[::4, ::4], photometric="rgb", metadata=None, subfiletype=1)
    assert_equal(readers.read_image(from_path(tmp_path / "a.tif")), COLOUR)


def stored_at(orientation, upright):
    """What a camera stores that was held as an EXIF orientation says, by the tag's definition."""
    # Sides of the picture at which the first row and the first column of the file lie.
    row, column = {
        1: ("top", "left"),
        2: ("top", "right"),
        3: ("bottom", "right"),
        4: ("bottom", "left"),
        5: ("left", "top"),
        6: ("right", "top"),
        7: ("right", "bottom"),
        8: ("left", "bottom"),
    }[orientation]
    stored = upright if row in ("top", "bottom") else np.moveaxis(upright, 0, 1)
    if row in ("bottom", "right"):
        stored = np.flip(stored, 0)
    if column in ("bottom", "right"):
        stored = np.flip(stored, 1)
    return np.ascontiguousarray(stored)


def with_orientation(orientation):
    exif = Image.Exif()
    exif[readers.ORIENTATION] = orientation
    return exif


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["png", "tif", "lzw.tif", "jpg"])
def test_images_are_turned_upright(tmp_path, ending, orientation):
    path = tmp_path / f"a.{ending}"
    upright = COLOUR // 2 * 2 if ending != "jpg" else BLOCKS
    stored = stored_at(orientation, upright)
    if ending == "tif":
        tag = (readers.ORIENTATION, "H", 1, orientation, True)
        tiff(stored, "rgb", extratags=[tag])(path)
    else:
        more = {"lzw.tif": {"compression": "tiff_lzw"}, "jpg": {"quality": 100}}.get(ending, {})
        pillow(stored, exif=with_orientation(orientation), **more)(path)
    array, turned = readers.read_upright(from_path(path))
    assert turned == orientation
    np.testing.assert_array_equal(array, upright)


BLOCKS = np.kron([[10, 60, 90], [150, 200, 250]], np.ones((8, 8)))[..., None].repeat(3, -1)
BLOCKS = BLOCKS.astype(np.uint8)
"""Grey that JPEG keeps."""


@pytest.mark.parametrize("read", [readers.read_mask, readers.read_label])
def test_masks_are_turned_upright(tmp_path, read):
    pillow(stored_at(6, MASK), exif=with_orientation(6))(tmp_path / "a.png")
    assert_equal(read(from_path(tmp_path / "a.png")), MASK)


@pytest.mark.parametrize("tag", [0, 9])
def test_an_orientation_that_is_none_is_disregarded(tmp_path, tag):
    pillow(COLOUR, exif=with_orientation(tag))(tmp_path / "a.png")
    assert_equal(readers.read_image(from_path(tmp_path / "a.png")), COLOUR)


def test_cmyk_becomes_rgb(tmp_path):
    flat = np.full((16, 16, 3), [200, 120, 40], np.uint8)
    pillow(flat, "CMYK", quality=95)(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as stored:
        assert stored.mode == "CMYK"
    image = readers.read_rgb(from_path(tmp_path / "a.jpg"))
    np.testing.assert_allclose(image, flat.astype(float), atol=4)


def test_jpeg_keeps_the_order_of_colours(tmp_path):
    flat = np.full((16, 16, 3), [200, 120, 40], np.uint8)
    pillow(flat, quality=95)(tmp_path / "a.jpg")
    image = readers.read_rgb(from_path(tmp_path / "a.jpg"))
    np.testing.assert_allclose(image, flat.astype(float), atol=4)


@pytest.mark.parametrize("mode", ["L", "P", "1"])
def test_rgb_of_grey_has_three_equal_channels(tmp_path, mode):
    pillow(np.uint8(255 * MASK), mode)(tmp_path / "a.png")
    image = readers.read_rgb(from_path(tmp_path / "a.png"))
    assert_equal(image, 255 * IN_RGB)


# Label maps

GREY_ENTRIES = [[4, 2, 4], [252, 254, 252], [100, 108, 104]]
VOC_ENTRIES = [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128]]


@pytest.mark.parametrize(
    "name, write, expected",
    [
        ("grey.png", pillow(CLASSES), CLASSES),
        ("grey.gif", pillow(CLASSES), CLASSES),
        ("any values.png", pillow(GREY), GREY),
        ("16 bits.png", pillow(DEEP[..., 0]), DEEP[..., 0]),
        ("equal channels.png", pillow(np.stack([CLASSES] * 3, -1)), CLASSES),
        ("and transparent.png", pillow(with_alpha(np.stack([CLASSES] * 3, -1))), CLASSES),
        ("yes.png", pillow(CLASSES > 2), np.uint8(CLASSES > 2)),
        ("coloured palette.png", palette(CLASSES, VOC_ENTRIES), CLASSES),
        ("coloured palette.gif", palette(CLASSES, VOC_ENTRIES), CLASSES),
        (
            "grey palette.png",
            palette(CLASSES % 3, GREY_ENTRIES),
            np.array([3, 253, 105], np.uint8)[CLASSES % 3],
        ),
        (
            "odd.tif",
            lambda path: layouts.write_odd_tiff(path, np.stack([CLASSES] * 3, -1)),
            CLASSES,
        ),
        ("signed.tif", tiff(CLASSES.astype(np.int32) - 1), CLASSES.astype(np.int32) - 1),
        ("whole.tif", tiff(CLASSES.astype(np.float32)), CLASSES.astype(np.int64)),
        ("whole.npy", numpy(CLASSES.astype(float)), CLASSES.astype(np.int64)),
        ("yes.npy", numpy(CLASSES > 2), np.uint8(CLASSES > 2)),
        ("one channel.npy", numpy(CLASSES[..., None]), CLASSES),
    ],
)
def test_label_maps_keep_their_values(tmp_path, name, write, expected):
    write(tmp_path / name)
    assert_equal(readers.read_label(from_path(tmp_path / name)), expected)


def test_a_coloured_palette_is_one_where_only_grey_entries_are_met(tmp_path):
    # Class 7 of PASCAL VOC's colours is grey.
    colours = [*VOC_ENTRIES, [128, 0, 128], [0, 128, 128], [128, 128, 128]]
    palette(7 * MASK, colours)(tmp_path / "a.png")
    assert_equal(readers.read_label(from_path(tmp_path / "a.png")), 7 * MASK)


# What is refused

REFUSED = {
    "RGB of 16 bits": (
        readers.read_rgb,
        tiff(DEEP, "rgb"),
        ", 3) and type uint16, expected 1 (grey) or 3 (RGB) channels of uint8; convert it",
    ),
    "RGB of four channels": (
        readers.read_rgb,
        tiff(COLOUR[..., [0, 1, 2, 0]], planarconfig="contig"),
        ", 4) and type uint8, expected 1 (grey) or 3 (RGB) channels of uint8",
    ),
    "stack": (
        readers.read_image,
        tiff(COLOUR[:9]),
        "contains 9 images, expected one; save each to a separate file",
    ),
    "compressed stack": (
        readers.read_mask,
        pillow(
            MASK,
            save_all=True,
            append_images=[Image.fromarray(MASK)],
            format="TIFF",
            compression="tiff_lzw",
        ),
        "contains 2 images, expected one",
    ),
    "animation": (
        readers.read_label,
        pillow(MASK, save_all=True, append_images=[Image.fromarray(1 - MASK)], format="GIF"),
        "contains 2 images, expected one",
    ),
    "mask beyond 16 bits": (
        readers.read_mask,
        tiff(MASK.astype(np.int32) * 70000),
        "has values up to 70000, expected a mask with values up to 1, 255 or 65535; rescale it",
    ),
    "photograph for a mask": (
        readers.read_mask,
        pillow(COLOUR),
        f"is not a mask: it has {len(np.unique(COLOUR.reshape(-1, 3), axis=0))} colours, and the",
    ),
    "grey photograph for a mask": (
        readers.read_mask,
        pillow(GREY),
        f"is not a mask: it has {len(np.unique(GREY))} grey values from 0 to 255, and many are far",
    ),
    "deep photograph for a mask": (
        readers.read_mask,
        pillow(DEEP[..., 0]),
        "and many are far from 0 and 65535; expected two values. Are images and masks swapped?",
    ),
    "probabilities for a mask": (
        readers.read_mask,
        tiff(np.where(MASK, 0.75, 0).astype(np.float32)),
        "contains 0.75, expected a label map of whole numbers; round it, or save the original "
        "label map; if these are probabilities, apply a threshold",
    ),
    "two dark values": (
        readers.read_mask,
        pillow(2 * MASK),
        "has the values 0 and 2, expected 0 and 1 or 0 and 255; convert it",
    ),
    "mask in the transparency": (
        readers.read_mask,
        pillow(np.concatenate([0 * IN_RGB, 255 * MASK[..., None]], -1)),
        "has the same colour everywhere and differs in transparency, which is not read; save the",
    ),
    "label in the transparency": (
        readers.read_label,
        pillow(np.stack([0 * MASK, MASK], -1)),
        "has the same colour everywhere and differs in transparency",
    ),
    "TIFF with colours of 16 bits": (
        readers.read_label,
        tiff(DEEP, "rgb"),
        "has colours of type uint16, expected a mask with 8 bits per colour; save it as a grey or",
    ),
    "colours of 16 bits": (
        readers.read_label,
        lambda path: write_deep_png(path, np.stack([CLASSES] * 3, -1)),
        "has 16 bits per colour, of which 8 are lost; save the mask as a grey image",
    ),
    "mask of NaN": (
        readers.read_mask,
        tiff(np.where(MASK, np.nan, 1).astype(np.float32)),
        "contains nan, expected a label map of whole numbers",
    ),
    "coloured label map": (
        readers.read_label,
        pillow(np.where(MASK[..., None], np.uint8([255, 0, 128]), np.uint8(0))),
        "has colours such as #ff0080, 1 in all, expected a label map with one class number per",
    ),
    "broken label": (
        readers.read_label,
        tiff(np.where(MASK, 1.5, 1).astype(np.float32)),
        "contains 1.5, expected a label map of whole numbers; round it",
    ),
    "label of NaN": (
        readers.read_label,
        tiff(np.where(MASK, np.nan, 1).astype(np.float32)),
        "contains nan, expected a label map of whole numbers",
    ),
}


@pytest.mark.parametrize("read, write, message", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_used_is_refused_by_name(tmp_path, read, write, message):
    path = tmp_path / "a.tif"
    write(path)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read(from_path(path))
    assert str(caught.value).startswith(f"{path} ")


@pytest.mark.parametrize(
    "array, read, message",
    [
        (np.zeros((2, 3, 4, 5)), readers.read_image, "has shape (2, 3, 4, 5), expected (height"),
        (np.zeros(9), readers.read_rgb, "has shape (9,), expected (height, width) or"),
        (np.zeros((2, 3, 4)), readers.read_mask, "has shape (2, 3, 4), expected (height, width)"),
        (np.zeros((2, 3, 4)), readers.read_label, "has shape (2, 3, 4), expected (height, width)"),
        (np.zeros((0, 3)), readers.read_mask, "has shape (0, 3), so it has no pixels"),
        (np.array([{}]), readers.read_image, "cannot be read as an image (Object arrays"),
    ],
)
def test_arrays_of_other_shapes_are_refused_by_name(tmp_path, array, read, message):
    numpy(array)(tmp_path / "a.npy")
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / 'a.npy'} {message}")):
        read(from_path(tmp_path / "a.npy"))


@pytest.mark.parametrize("read", ALL)
def test_missing_and_forbidden_files_are_named(tmp_path, monkeypatch, read):
    path = tmp_path / "a.png"
    pillow(GREY)(path)
    file = from_path(path)

    def refuse(self, mode):
        raise PermissionError(13, "Permission denied", str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        message = f"{path} cannot be read (Permission denied); get read permission"
        with pytest.raises(PermissionError, match=re.escape(message)):
            read(file)
    path.unlink()
    with pytest.raises(
        FileNotFoundError, match=re.escape(f"{path} is missing; unpack the data set")
    ):
        read(file)


# Pillow warns of some truncated files before it gives up on them.
@pytest.mark.filterwarnings("ignore:(Truncated File Read|Corrupt EXIF):UserWarning")
@pytest.mark.parametrize("suffix", ["tif", "png", "jpg", "odd.tif", "npy"])
@pytest.mark.parametrize("keep", [0, 0.001, 0.02, 0.3, 0.6, 0.9, 0.98])
def test_truncated_file_is_named(tmp_path, suffix, keep):
    path = tmp_path / f"image.{suffix}"
    if suffix == "odd.tif":
        layouts.write_odd_tiff(path, COLOUR)
    elif suffix == "npy":
        np.save(path, COLOUR)
    else:
        layouts.write_rgb(path, COLOUR)
    assert readers.read_rgb(from_path(path)).shape == (29, 31, 3)
    layouts.truncate(path, keep)
    with pytest.raises(ValueError, match=re.escape(f"{path} cannot be read as an image")):
        readers.read_rgb(from_path(path))


def test_no_image_at_all_is_named(tmp_path):
    path = tmp_path / "a.png"
    path.write_text("<html>Please log in</html>")
    message = f"{path} cannot be read as an image (unknown format, or truncated); unpack"
    with pytest.raises(ValueError, match=re.escape(message)):
        readers.read_mask(from_path(path))


def test_what_only_another_package_decodes_is_said(tmp_path, monkeypatch):
    path = tmp_path / "a.tif"
    layouts.write_odd_tiff(path, COLOUR)

    def lack(self):
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TiffPage, "asarray", lack)
    message = f"{path} cannot be read as an image (<COMPRESSION.LZW: 5> requires the 'imagecodecs'"
    with pytest.raises(ValueError, match=re.escape(message)):
        readers.read_rgb(from_path(path))


@pytest.mark.parametrize("place", [11, 35])  # in the lengths of the first and second chunk
def test_damaged_chunk_is_named(tmp_path, place):
    path = tmp_path / "image.png"
    layouts.write_rgb(path, COLOUR)
    content = bytearray(path.read_bytes())
    assert content[place] != 0
    content[place] = 0
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"{path} cannot be read as an image")):
        readers.read_rgb(from_path(path))


def test_member_of_an_archive_is_read_and_if_damaged_named(tmp_path):
    pillow(COLOUR)(tmp_path / "a.bmp")
    layouts.zipped(tmp_path, tmp_path.parent / "a.zip")
    archive = tmp_path.parent / "a.zip"
    [file] = tree(archive).values()
    assert_equal(readers.read_rgb(file), COLOUR)
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 255
    archive.write_bytes(content)
    [file] = tree(archive).values()
    with pytest.raises(ValueError, match=re.escape(f"{archive}/a.bmp cannot be read as an image")):
        readers.read_rgb(file)


def test_size_beyond_reason_is_named(tmp_path, monkeypatch):
    path = tmp_path / "image.png"
    layouts.write_rgb(path, np.zeros((50, 50, 3), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match=re.escape(f"{path} cannot be read as an image")):
        readers.read_rgb(from_path(path))
