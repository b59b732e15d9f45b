"""Files from strangers: data sets, archives, runs and saved models that mean harm."""

import ast
import csv
import dataclasses
import gzip
import hashlib
import html
import io
import json
import re
import stat
import struct
import types
import zipfile
import zlib
from pathlib import Path

import jax.numpy as jnp
import layouts_dicom
import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text
from PIL import Image
from test_report import BETTER, WORSE, Parsed, values, write_run
from test_saved import RUN, save_linear

from dicepp_jax import names
from dicepp_jax.atomic import write_text
from dicepp_jax.data import SETS, dicom, files, folder, limits, nifti, nnunet, readers
from dicepp_jax.data.specs import PHANTOM
from dicepp_jax.data.survey import Options
from dicepp_jax.plots import canvas
from dicepp_jax.plots import cases as case_plots
from dicepp_jax.predictions import images, outputs
from dicepp_jax.predictions.images import InputCase
from dicepp_jax.predictions.wanted import FLOAT32, Wanted
from dicepp_jax.rows import Row, read_csv, write_csv
from dicepp_jax.saved import PARAMS, load_model, save_model
from experiments.report import figures, groups, markup, write
from experiments.training import single
from experiments.workdirs import finished

ROOT = Path(__file__).parents[1]

# No file is code

MODULES = {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "code"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
LOADERS = {"import_module", "run_module", "run_path"}
SHELLS = {("os", "system"), ("os", "popen"), ("subprocess", "getoutput"), ("torch", "load")}
EXCEPTIONS = {
    # Names from a table in the source, never from a file.
    "experiments/console.py: run_module",
    "experiments/benchmarks/commands.py: import_module",
    "configs/paper.py: import_module",
}


def that_run_code(tree):
    """What in a syntax tree can run what it reads."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            yield node.module
        elif isinstance(node, ast.Call):
            of = getattr(getattr(node.func, "value", None), "id", "")
            name = getattr(node.func, "id", "") or getattr(node.func, "attr", "")
            # `re.compile` and `model.eval()` are other functions.
            if name in LOADERS or (isinstance(node.func, ast.Name) and name in BUILTINS):
                yield name
            if (of, name) in SHELLS:
                yield f"{of}.{name}"
            for given_ in node.keywords:
                fixed = isinstance(given_.value, ast.Constant) and given_.value.value is False
                if given_.arg in ("allow_pickle", "shell") and not fixed:
                    yield given_.arg


def test_no_file_that_is_read_can_run_code():
    found = {
        f"{path.relative_to(ROOT).as_posix()}: {what}"
        for package in ("dicepp_jax", "experiments", "configs")
        for path in sorted((ROOT / package).rglob("*.py"))
        for what in that_run_code(ast.parse(path.read_text()))
    }
    assert found == EXCEPTIONS


@pytest.mark.parametrize(
    "code",
    [
        *("import pickle", "from yaml import load", "eval(x)", "exec(x)", "__import__(x)"),
        *("np.load(x, allow_pickle=True)", "np.load(x, allow_pickle=y)", "os.system(x)"),
        *("subprocess.run(x, shell=True)", "importlib.import_module(x)", "torch.load(x)"),
    ],
)
def test_the_search_finds_what_runs_code(code):
    assert list(that_run_code(ast.parse(code)))
    assert not list(that_run_code(ast.parse("re.compile(x); model.eval(); np.load(x)")))


def test_objects_in_arrays_are_not_loaded(tmp_path):
    class Harm:
        def __reduce__(self):
            return Path.touch, (tmp_path / "harm",)

    np.save(tmp_path / "a.npy", np.array([[Harm()]], object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"a\.npy cannot be read as .* arrays could run"):
        readers.read_image(files.from_path(tmp_path / "a.npy"))
    save_linear(tmp_path, PHANTOM, (8, 8))
    path = tmp_path / "model" / PARAMS
    np.savez(path, kernel=np.array([Harm()], object))
    about = json.loads((tmp_path / "model/model.json").read_text())
    about["sha256"][PARAMS] = hashlib.sha256(path.read_bytes()).hexdigest()
    (tmp_path / "model/model.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match=r"params\.npz cannot be read as arrays \(Object arrays"):
        load_model(tmp_path)
    assert not (tmp_path / "harm").exists()


def test_a_network_that_calls_functions_of_the_host_is_refused(tmp_path):
    def apply(params, images):
        return images @ jnp.linalg.cholesky(params["kernel"])

    kernel = np.eye(3, dtype=np.float32)
    spec = dataclasses.replace(PHANTOM, classes=("none", "a", "b"))
    save_model(tmp_path, apply, {"kernel": kernel}, spec, (8, 8), **RUN)
    with pytest.raises(ValueError, match=r"network\.jaxexport .* has a custom_call @lapack"):
        load_model(tmp_path)


# Sizes


def png_header(width, height):
    """A PNG of one line that says it is as large as that."""

    def chunk(kind, content):
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(9))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def write_header(path):
    """A small file whose header states a size beyond any memory."""
    if path.suffix == ".png":
        path.write_bytes(png_header(10**6, 10**6))
    elif path.suffix == ".npy":
        with path.open("wb") as file:
            described = {"descr": "|u1", "fortran_order": False, "shape": (10**6, 10**6)}
            np.lib.format.write_array_header_1_0(file, described)
    elif path.suffix == ".tif":
        tifffile.imwrite(path, np.zeros((8, 8), np.uint8))
        content = path.read_bytes()
        for tag in (256, 257, 278):  # Width, height and rows of a strip, to be 32 bits.
            start = re.search(struct.pack("<H", tag) + b"[\3\4]\0\1\0\0\0", content).start()
            entry = struct.pack("<HHII", tag, 4, 1, 10**6)
            content = content[:start] + entry + content[start + 12 :]
        path.write_bytes(content)
    else:
        header = nib.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.eye(4)).header
        header["dim"][1:4] = 32_000
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "wb") as file:
            file.write(header.binaryblock + bytes(1000))


@pytest.mark.parametrize("name", ["a.png", "a.npy", "a.tif", "a.nii", "a.nii.gz"])
def test_a_size_that_the_file_cannot_hold_is_refused(tmp_path, monkeypatch, name):
    """Though there is memory enough for it."""
    monkeypatch.setattr(limits, "memory", lambda: 10**18)
    write_header(tmp_path / name)
    read = nifti.read if ".nii" in name else readers.read_image
    reason = "could be decompression bomb" if name == "a.png" else "which cannot hold that"
    with pytest.raises(ValueError, match=rf"/{name} cannot be read as .*{reason}"):
        read(files.from_path(tmp_path / name))


def test_a_series_that_its_files_cannot_hold_is_refused(tmp_path, monkeypatch):
    layouts_dicom.write_series(tmp_path / "s", layouts_dicom.stored(), Rows=65535, Columns=65535)
    [series] = dicom.gather(files.tree(tmp_path / "s").values(), ())
    monkeypatch.setattr(limits, "memory", lambda: 10**18)
    with pytest.raises(ValueError, match=r"/s cannot be read as DICOM .*which cannot hold that"):
        dicom.read(series)


@pytest.mark.parametrize("name", ["a.npy", "a.nii", "a.tif", "a.png", "s"])
def test_more_than_the_memory_is_refused(tmp_path, monkeypatch, name):
    array = np.zeros((20, 20, 20) if name == "a.nii" else (100, 100), np.uint8)
    if name == "s":
        layouts_dicom.write_series(tmp_path / "s", layouts_dicom.stored((9, 20, 20)))
        [file] = dicom.gather(files.tree(tmp_path / "s").values(), ())
    else:
        if name == "a.nii":
            nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / name)
        elif name == "a.npy":
            np.save(tmp_path / name, array)
        else:
            Image.fromarray(array).save(tmp_path / name)
        file = files.from_path(tmp_path / name)._replace(size=0)
    monkeypatch.setattr(limits, "memory", lambda: 18_000 if name == "s" else 5000)
    read = dicom.read if name == "s" else nifti.read if name == "a.nii" else readers.read_image
    with pytest.raises(ValueError, match=rf"{name} cannot be read .*more than the 0.0 GiB of this"):
        read(file)


def test_a_file_larger_than_the_memory_is_not_read(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(bytes(4000))
    monkeypatch.setattr(limits, "memory", lambda: 3000)
    with pytest.raises(ValueError, match=r"/a\.png .*more than the 0.0 GiB of this machine"):
        readers.read_image(files.from_path(tmp_path / "a.png"))


def test_voxels_without_end_are_not_unpacked(tmp_path, monkeypatch):
    image = nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4))
    path = tmp_path / "a.nii.gz"
    with gzip.open(path, "wb") as file:
        file.write(image.to_bytes() + bytes(5000))
    nifti.read(files.from_path(path))
    monkeypatch.setattr(nifti, "SLAB", 1000)
    with pytest.raises(ValueError, match=r"a\.nii\.gz .*goes on after the voxels"):
        nifti.read(files.from_path(path))


def test_extensions_of_a_header_are_not_read(tmp_path):
    header = nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)).header
    header["vox_offset"] = 10**6
    extension = bytes([1, 0, 0, 0]) + struct.pack("<ii", 900_000, 4)
    content, most = header.binaryblock + extension + bytes(10**6), 0

    class Stream(io.BytesIO):
        def read(self, size=-1):
            nonlocal most
            most = max(most, len(content) if size < 0 else size)
            return super().read(size)

    file = files.File("a.nii", "a.nii", "", False, lambda: Stream(content))
    assert nifti.read_grid(file).shape == (4, 4, 4)
    assert most <= 1000


# Archives


def pack(path, *members, kind=stat.S_IFREG, method=zipfile.ZIP_DEFLATED, content=b"x"):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name in members:
            member = zipfile.ZipInfo("placeholder")
            member.filename, member.compress_type = name, method
            member.external_attr = (kind | 0o644) << 16
            archive.writestr(member, content)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/etc/x.png", "would lie outside"),
        ("../../evil.png", "would lie outside"),
        ("images/../../evil.png", "would lie outside"),
        ("..\\..\\evil.png", "would lie outside"),
        ("C:\\evil.png", "would lie outside"),
        ("C:evil.png", "would lie outside"),
        ("a\x1b[2J.png", r"has the character '\x1b'"),
        ("a\nb.png", r"has the character '\n'"),
        ("gnp\u202eexe.png", r"has the character '\u202e'"),
        ("n" * 300 + ".png", "has a name of more than 255 bytes"),
    ],
)
def test_members_that_are_no_file_in_the_archive_are_refused(tmp_path, name, reason):
    pack(tmp_path / "a.zip", "images/good.png", name)
    for place in (tmp_path, tmp_path / "a.zip"):
        with pytest.raises(ValueError, match=re.escape(reason)) as raised:
            files.tree(place)
        assert str(tmp_path / "a.zip") in str(raised.value)
        assert str(raised.value).isprintable()
    assert [path.name for path in tmp_path.rglob("*")] == ["a.zip"]


def test_a_member_whose_name_ends_before_its_end_is_refused(tmp_path):
    pack(tmp_path / "a.zip", "a.png_.exe")
    content = (tmp_path / "a.zip").read_bytes().replace(b"a.png_.exe", b"a.png\0.exe")
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(r"'a.png\x00.exe' has the character '\x00'")):
        files.tree(tmp_path / "a.zip")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices_in_archives_are_refused(tmp_path, kind):
    pack(tmp_path / "a.zip", "a.png", kind=kind, content=b"/etc/passwd")
    with pytest.raises(ValueError, match=r"a\.zip, the member 'a\.png' is a link or a device"):
        files.tree(tmp_path / "a.zip")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_one_name_with_two_contents_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.png", "harmless")
        archive.writestr("a.png", "harmful!")
    with pytest.raises(ValueError, match=r"a\.zip/a\.png' is there twice with different contents"):
        files.tree(tmp_path / "a.zip")


def test_archives_in_archives_end(tmp_path):
    content = b"x"
    for depth in range(1, 5):
        pack(tmp_path / f"{depth}.zip", "a.zip" if depth > 1 else "a.png", content=content)
        content = (tmp_path / f"{depth}.zip").read_bytes()
    assert len(files.tree(tmp_path / "3.zip")) == 1
    with pytest.raises(ValueError, match=r"4\.zip(/a\.zip){3}' lies in archives"):
        files.tree(tmp_path / "4.zip")


def test_a_member_that_cannot_be_so_large_is_not_unpacked(tmp_path, monkeypatch):
    pack(tmp_path / "a.zip", "a.png", method=zipfile.ZIP_LZMA, content=bytes(1 << 21))
    [file] = files.tree(tmp_path / "a.zip").values()
    assert len(file.read()) == 1 << 21
    monkeypatch.setattr(limits, "FREE", 0)
    with pytest.raises(ValueError, match=r"a\.zip/a\.png states .* which cannot hold that"):
        file.read()


# Names

HOSTILE = (
    *("../../evil", "/etc/x", "a/../../b", "CON", "nul.png", "x\0y", "n" * 300, "a\nb", "a\tb"),
    *("\x1b[2J", "\u202egnp", "..", "", "-rf", ".hidden", "~", "a:b", "a*b?", "C:\\x", "\udc80"),
)


@pytest.mark.parametrize("name", HOSTILE)
def test_any_text_becomes_the_name_of_one_file(tmp_path, name):
    made = names.file_name(name)
    path = tmp_path / f"{made}_thresholds.png"
    write_text(path, "x")
    assert path.resolve().parent == tmp_path and made[0] not in ".-~"
    assert not names.RESERVED.fullmatch(made) and not set(made) & set('\\/:*?"<>|\n\t\x1b\u202e')


@pytest.mark.parametrize(
    "name", ["a (1)", "BraTS20_Training_001_flair", "Noe\u0308l", "\u60a3\u8005 1", "a.b"]
)
def test_plain_names_stay_as_they_are(tmp_path, name):
    assert names.file_name(name) == name
    names.check(name, "the case")
    names.check_output(tmp_path, tmp_path / "masks" / "sub" / f"{name}.png")


def test_folders_of_classes_are_different_on_any_system():
    classes = ["a/b", "a b", "A/B", "../..", "e\u0301", "\u00e9", "CON", "n" * 300, "n" * 299 + "m"]
    made = names.folder_names(classes)
    assert len({names.folded(name) for name in made}) == len(classes)
    assert not [name for name in made if "/" in name or name[0] == "." or len(name) > 255]
    assert made[:2] == ["a_b", "a_b_2"]


@pytest.mark.parametrize(
    "name",
    ["../../evil", "/etc/x", "sub/../../../evil", "CON", "sub/aux", "n" * 246, "a\x1bb"],
)
def test_no_prediction_is_written_elsewhere(tmp_path, monkeypatch, name):
    monkeypatch.setattr(names, "WINDOWS", True)
    case = InputCase(name, (files.File("a.png", "a.png", "", False, io.BytesIO),))
    with pytest.raises(ValueError, match=r"not in .*out|cannot be called|cannot be shown"):
        outputs.paths(tmp_path / "out", case, PHANTOM, Wanted(FLOAT32))


def test_no_prediction_is_written_through_a_link(tmp_path):
    case = InputCase("sub/a", (files.File("a.png", "a.png", "", False, io.BytesIO),))
    out = tmp_path / "out"
    (out / "masks").mkdir(parents=True)
    outputs.paths(out, case, PHANTOM, Wanted(FLOAT32))
    (out / "masks/sub").symlink_to(tmp_path)
    with pytest.raises(ValueError, match=r"masks/sub is a link to .*, outside .*/out; remove"):
        outputs.paths(out, case, PHANTOM, Wanted(FLOAT32))


def test_classes_of_a_model_cannot_leave_the_folder(tmp_path):
    spec = dataclasses.replace(PHANTOM, classes=("none", "../../evil", "/etc/x", "a b", "a/b"))
    case = InputCase("a", (files.File("a.png", "a.png", "", False, io.BytesIO),))
    found = outputs.paths(tmp_path, case, spec, Wanted(FLOAT32)).probabilities
    assert len(set(found)) == 4
    for path in found:
        assert path.resolve().parents[1] == tmp_path / "probabilities"


def test_masks_that_are_no_predictions_are_not_replaced(tmp_path):
    (tmp_path / "masks").mkdir()
    with pytest.raises(ValueError, match=r"has masks, but no prediction\.json"):
        outputs.write_settings(tmp_path, {}, {})
    assert not (tmp_path / "prediction.json").exists()
    outputs.write_settings(tmp_path / "new", {}, {})
    (tmp_path / "new/masks").mkdir()
    outputs.write_settings(tmp_path / "new", {}, {})


@pytest.mark.parametrize("pair", [("A.png", "a.png"), ("\u00e9.png", "e\u0301.png")])
def test_two_cases_that_are_one_file_elsewhere_are_not_predicted_together(tmp_path, pair):
    paths = [tmp_path / name for name in pair]
    for path in paths:
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"would both be predicted as .* on macOS and Windows"):
        images.find(list(map(str, paths)), PHANTOM, tmp_path / "out")


def test_what_is_written_does_not_go_through_a_link(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / ".part.report.txt").symlink_to(tmp_path / "mine")
    write_text(tmp_path / "report.txt", "theirs")
    assert (tmp_path / "mine").read_text() == "mine"
    assert not (tmp_path / "report.txt").is_symlink()


@pytest.mark.parametrize("name", ["a\x1b[2J.png", "a\nb.png", "a\u202egnp.png", "a\udc80.png"])
def test_files_whose_names_cannot_be_shown_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    for look in (
        lambda: files.tree(tmp_path),
        lambda: images.find([str(tmp_path / name)], PHANTOM, tmp_path / "out"),
    ):
        with pytest.raises(ValueError, match="has the character .*; rename it") as raised:
            look()
        assert str(raised.value).isprintable()


def test_the_icon_of_a_folder_on_macos_is_passed_over(tmp_path):
    (tmp_path / "Icon\r").write_bytes(b"")
    assert not files.tree(tmp_path)


@pytest.mark.parametrize(
    ("field", "content"),
    [("labels", {"background": 0, "\x1b[2J": 1}), ("channel_names", {"0": "a\x1b[2J"})],
)
def test_names_in_a_description_of_nnunet_are_safe_to_print(tmp_path, field, content):
    described = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1}, field: content}
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match=r"dataset\.json: the .*has the character") as raised:
        nnunet.find_cases(files.tree(tmp_path), Options())
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("ending", ["/../../x.png", "../x", ".py"])
def test_an_ending_in_a_description_of_nnunet_is_one_that_is_known(tmp_path, ending):
    described = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1}}
    (tmp_path / "dataset.json").write_text(json.dumps({**described, "file_ending": ending}))
    with pytest.raises(ValueError, match="has file_ending .*, expected one of"):
        nnunet.find_cases(files.tree(tmp_path), Options())


def test_json_without_end_is_refused_by_name(tmp_path):
    (tmp_path / "dataset.json").write_text("[" * 10**5)
    with pytest.raises(ValueError, match=r"dataset\.json is not valid JSON"):
        folder.describe(tmp_path, files.tree(tmp_path), Options(), tmp_path / "cache")


@pytest.mark.parametrize("field", ["title", "name"])
def test_a_saved_model_with_names_that_cannot_be_shown_is_refused(tmp_path, field):
    save_linear(tmp_path, PHANTOM, (8, 8))
    path = tmp_path / "model/model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: "x\x1b[2J"}))
    with pytest.raises(
        ValueError, match=r"model\.json cannot be used .*has the character"
    ) as raised:
        load_model(tmp_path)
    assert str(raised.value).isprintable()


def test_figures_of_cases_stay_in_their_folder(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(canvas, "save", lambda figure, path: drawn.append(path))
    monkeypatch.setattr(case_plots, "prediction", lambda *_: None)
    monkeypatch.setattr(case_plots, "thresholds", lambda *_: None)
    for name in ("reliability_diagram", "training_curves"):
        monkeypatch.setattr(f"dicepp_jax.plots.curves.{name}", lambda *_: None)
    shown = [(types.SimpleNamespace(case="../../evil"),)]
    single.draw(
        {"dsc": types.SimpleNamespace(shown=shown, reliability=None, calibration=lambda _: ())},
        {},
        (),
        tmp_path,
    )
    assert len(drawn) == 4 and {path.resolve().parent for path in drawn} == {tmp_path}


def test_names_are_drawn_as_text_and_numbers_on_axes_as_formulas(tmp_path):
    figure, axes = plt.subplots(figsize=(2, 2))
    axes.set(title=r"$\frac{$", yscale="log", ylim=(0.01, 1))
    axes.plot([1, 2], [0.1, 1], label=r"$\input{x}$")
    axes.legend()
    canvas.save(figure, tmp_path / "a.png")
    formulas = [text.get_text() for text in figure.findobj(Text) if text.get_parse_math()]
    assert any("10^{" in text for text in formulas)
    assert (tmp_path / "a.png").stat().st_size


# Reports

MARKUP = r"<img src=x onerror=alert(1)> & `a` | [x](javascript:alert(1)) \input{/etc/passwd} %_$#"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The runs and the report of a stranger's data set."""
    tmp_path = tmp_path_factory.mktemp("reports")
    spec = dataclasses.replace(
        SETS["drive"].spec, name=f"../{MARKUP}", title=MARKUP, classes=("none", MARKUP, "../../b")
    )
    for name, by_metric in (("dsc", WORSE), ("dscpp", BETTER)):
        folder = tmp_path / "<b>runs</b>" / name
        write_run(folder, f"tiny/drive/{name}", values(by_metric), spec=spec)
    about = tmp_path / "<b>runs</b>" / "dsc" / "run.json"
    about.write_text(about.read_text().replace("cpu cpu", "<script>x</script>"))
    write.write([tmp_path / "<b>runs</b>"], tmp_path / "report", "none")
    return tmp_path


def test_no_name_is_markup_in_html(report):
    text = (report / "report/report.html").read_text()
    page = Parsed(text)
    assert not page.open and not {"img", "script", "b"} & {tag for tag, _ in page.found}
    assert not [name for _, attributes in page.found for name in attributes if name[:2] == "on"]
    assert {a["href"][0] for tag, a in page.found if tag == "a"} == {"#"}
    assert html.escape(MARKUP) in text and "&lt;script&gt;" in text


def test_no_name_is_markup_in_markdown(report):
    text = (report / "report/report.md").read_text()
    assert r"\<img src=x onerror=alert(1)>" in text and r"\[x\](javascript" in text
    assert not re.search(r"(?<!\\)<[a-z/]|(?<!\\)\]\(|(?<!\\)`", text)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    bars = {len(re.findall(r"(?<!\\)\|", line)) for line in rows}
    heads = {line.count("---") + 1 for line in rows if "---" in line}
    assert bars == heads


def test_no_name_is_a_command_in_latex(report):
    tables = list((report / "report/tables").rglob("*"))
    assert tables and all(re.fullmatch(r"\w+\.tex", path.name) for path in tables)
    for path in tables:
        text = path.read_text()
        assert r"\textbackslash{}input\{/etc/passwd\} \%\_\$\#" in text
        assert r"\input" not in text and "{[}x]" in text


def test_files_of_a_report_stay_in_their_folder(report):
    gathered = groups.gather(finished.find([report / "<b>runs</b>"]))
    found = [figure.name for figure in figures.figures(gathered)]
    assert len(found) > 4
    assert not [name for name in found if "/" in name or name.startswith(".") or len(name) > 200]


def test_line_breaks_are_spaces_in_markup():
    assert markup.escape_markdown("a\n\n# b") == "a  # b"
    assert markup.escape_latex("a\n\n\\b") == r"a  \textbackslash{}b"


# Tables

FORMULAS = ("=cmd|' /C calc'!A0", "+1", "-1+1", "@SUM(1)", "\t=1", "\r=1", "\n=1", "\uff1d1")


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_is_a_formula(tmp_path, text):
    rows = [Row(text, f"'{text}", f"''{text}", "'a", -0.5)]
    write_csv(tmp_path / "a.csv", rows)
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        _, cells = csv.reader(file)
    assert cells == [f"'{text}", f"''{text}", f"'''{text}", "'a", "-0.5"]
    assert read_csv(tmp_path / "a.csv", Row) == rows


@given(st.lists(st.text("'=+-@\t\r\n\uff1da,\"", max_size=4), min_size=4, max_size=4))
def test_what_looks_like_a_formula_is_read_as_it_was(tmp_path_factory, texts):
    path = tmp_path_factory.getbasetemp() / "formulas.csv"
    write_csv(path, [Row(*texts, -1.0)])
    assert read_csv(path, Row) == [Row(*texts, -1.0)]


def test_every_table_is_written_in_one_place():
    writers = [
        path.relative_to(ROOT).as_posix()
        for package in ("dicepp_jax", "experiments", "configs")
        for path in (ROOT / package).rglob("*.py")
        if re.search(r"csv\.(writer|DictWriter)|to_csv|savetxt", path.read_text())
    ]
    assert writers == ["dicepp_jax/rows.py"]
