"""The published sets and the phantoms: one `Spec` each."""

import dataclasses

from dicepp_jax.spec import Download, Spec

DRIVE = Spec(
    name="drive",
    title="DRIVE",
    classes=("background", "vessel"),
    channels=3,
    dtype="uint8",
    size=(512, 512),
    counts=(16, 4, 20),
    native_size=(584, 565),
    region="field of view",
    raters=True,
    index="position from 0",
    homepage="https://drive.grand-challenge.org",
    licence="Free for research after registration; no redistribution.",
    citation=(
        "J. Staal, M. D. Abramoff, M. Niemeijer, M. A. Viergever, B. van Ginneken: Ridge-based "
        "vessel segmentation in color images of the retina. IEEE TMI 23(4), 2004."
    ),
    obtain=(
        "1. Register at https://drive.grand-challenge.org and download the archives. "
        "2. Put the zip, or what is in it, into a folder: training/images/21_training.tif, "
        "training/1st_manual/21_manual1.gif, training/mask/21_training_mask.gif and the same for "
        "test/ (01_test.tif, ...). Some archives leave out test/1st_manual, against which the test "
        "images are scored. "
        "3. Pass that folder as --config.data.manual_dir=FOLDER"
    ),
)

BUS2017 = Spec(
    name="bus2017",
    title="BUS2017",
    classes=("background", "lesion"),
    channels=3,
    dtype="uint8",
    size=(128, 128),
    counts=(104, 26, 33),
    index="position from 0",
    homepage="https://helward.mmu.ac.uk/STAFF/m.yap/dataset.php",
    licence="For research, against a signed licence agreement; no redistribution.",
    citation=(
        "M. H. Yap, G. Pons, J. Marti, S. Ganau, M. Sentis, R. Zwiggelaar, A. K. Davison, "
        "R. Marti: Automated breast ultrasound lesions detection using convolutional neural "
        "networks. IEEE JBHI 22(4), 2018."
    ),
    obtain=(
        "1. Ask for dataset B with the form at https://helward.mmu.ac.uk/STAFF/m.yap/dataset.php "
        "(the older address, www2.docm.mmu.ac.uk, is gone). "
        "2. Put the zip, or what is in it, into a folder: original/000001.png, GT/000001.png, ... "
        "3. Pass that folder as --config.data.manual_dir=FOLDER"
    ),
)

DSB2018 = Spec(
    name="dsb2018",
    title="2018DSB",
    classes=("background", "nucleus"),
    channels=3,
    dtype="uint8",
    size=(256, 256),
    counts=(428, 108, 134),
    index="position from 0",
    homepage="https://bbbc.broadinstitute.org/BBBC038",
    licence="CC0 1.0",
    citation=(
        "J. C. Caicedo et al.: Nucleus segmentation across imaging experiments: the 2018 Data "
        "Science Bowl. Nature Methods 16, 2019."
    ),
    obtain=(
        "1. Download https://data.broadinstitute.org/bbbc/BBBC038/stage1_train.zip. "
        "2. Put it, or what is in it, into a folder: ID/images/ID.png and ID/masks/*.png for each "
        "image. "
        "3. Pass that folder as --config.data.manual_dir=FOLDER; steps 1 and 2 are done for you by "
        "--config.data.download=True"
    ),
    downloads=(
        Download(
            "https://data.broadinstitute.org/bbbc/BBBC038/stage1_train.zip", "stage1_train.zip"
        ),
    ),
)

ISIC2018 = Spec(
    name="isic2018",
    title="ISIC2018",
    classes=("background", "lesion"),
    channels=3,
    dtype="uint8",
    size=(512, 512),
    counts=(1661, 415, 518),
    index="position from 1",
    homepage="https://challenge.isic-archive.com/data/#2018",
    licence="The challenge's terms, see https://challenge.isic-archive.com/data/#2018.",
    citation=(
        "N. Codella et al.: Skin lesion analysis toward melanoma detection 2018. arXiv:1902.03368. "
        "P. Tschandl, C. Rosendahl, H. Kittler: The HAM10000 dataset. Scientific Data 5, 2018."
    ),
    obtain=(
        "1. Download ISIC2018_Task1-2_Training_Input.zip (10 GB) and "
        "ISIC2018_Task1_Training_GroundTruth.zip from "
        "https://challenge.isic-archive.com/data/#2018. "
        "2. Put both, or the folders that are in them, into a folder: "
        "ISIC2018_Task1-2_Training_Input/ISIC_0000000.jpg, "
        "ISIC2018_Task1_Training_GroundTruth/ISIC_0000000_segmentation.png, ... "
        "3. Pass that folder as --config.data.manual_dir=FOLDER; steps 1 and 2 are done for you by "
        "--config.data.download=True"
    ),
    downloads=(
        Download(
            "https://isic-challenge-data.s3.amazonaws.com/2018/ISIC2018_Task1-2_Training_Input.zip",
            "ISIC2018_Task1-2_Training_Input.zip",
            "80f98572347a2d7a376227fa9eb2e4f7459d317cb619865b8b9910c81446675f",
        ),
        Download(
            "https://isic-challenge-data.s3.amazonaws.com/2018/"
            "ISIC2018_Task1_Training_GroundTruth.zip",
            "ISIC2018_Task1_Training_GroundTruth.zip",
            "99f8b2bb3c4d6af483362010715f7e7d5d122d9f6c02cac0e0d15bef77c7604c",
        ),
    ),
)

CVC_CLINICDB = Spec(
    name="cvc_clinicdb",
    title="CVC-ClinicDB",
    classes=("background", "polyp"),
    channels=3,
    dtype="uint8",
    size=(288, 384),
    counts=(392, 98, 122),
    native_size=(288, 384),
    index="name",
    homepage="https://polyp.grand-challenge.org/CVCClinicDB/",
    licence="For research and education; see https://polyp.grand-challenge.org/CVCClinicDB/.",
    citation=(
        "J. Bernal, F. J. Sanchez, G. Fernandez-Esparrach, D. Gil, C. Rodriguez, F. Vilarino: "
        "WM-DOVA maps for accurate polyp highlighting in colonoscopy. CMIG 43, 2015."
    ),
    obtain=(
        "1. Download CVC-ClinicDB.rar from https://polyp.grand-challenge.org/CVCClinicDB/. "
        "2. Unpack it with `unar` or 7-Zip into a folder: Original/1.tif, Ground Truth/1.tif, ... "
        "3. Pass that folder as --config.data.manual_dir=FOLDER"
    ),
)

KITS19_EXCLUDED = (15, 23, 37, 68, 125, 133)
"""Excluded in the paper."""

KITS19 = Spec(
    name="kits19",
    title="KiTS19",
    classes=("background", "kidney", "tumour"),
    channels=1,
    dtype="int16",
    size=(80, 160, 160),
    patches=True,
    label_map=True,
    counts=(130, 33, 41),
    spacing=(3.22, 1.62, 1.62),
    intensity_range=(-79.0, 304.0),
    excluded=tuple(f"case_{number:05d}" for number in KITS19_EXCLUDED),
    homepage="https://kits19.grand-challenge.org",
    licence="CC BY-NC-SA 4.0: not for commercial use, changed copies under the same terms.",
    citation=(
        "N. Heller et al.: The state of the art in kidney and kidney tumor segmentation in "
        "contrast-enhanced CT imaging: results of the KiTS19 challenge. Medical Image Analysis 67, "
        "2021."
    ),
    obtain=(
        "1. Clone https://github.com/neheller/kits19 or download its zip: it holds the masks, "
        "data/case_00000/segmentation.nii.gz, ... "
        "2. Put the clone or the zip into a folder. "
        "3. Get the imaging (tens of GB), case_00000/imaging.nii.gz, ... into the same folder: "
        "the clone's own script puts it beside the masks. "
        "4. Pass that folder as --config.data.manual_dir=FOLDER; step 3 is done for you by "
        "--config.data.download=True"
    ),
    downloads=tuple(
        Download(
            "https://huggingface.co/datasets/neheller/KiTS-Challenge-Imaging/resolve/main/images/"
            f"case_{number:05d}.nii.gz",
            f"case_{number:05d}/imaging.nii.gz",
        )
        for number in range(210)
        if number not in KITS19_EXCLUDED
    ),
)

KITS19_SYNTHETIC = dataclasses.replace(
    KITS19,
    name="kits19_synthetic",
    title="KiTS19 with synthetic intensities",
    # Half the in-plane resolution, so that small patches cover as much of the body.
    size=(32, 64, 64),
    spacing=(3.22, 3.24, 3.24),
    obtain=(
        "1. Clone https://github.com/neheller/kits19 or download its zip: it holds the masks, "
        "data/case_00000/segmentation.nii.gz, ... "
        "2. Pass the folder with the clone or the zip as --config.data.manual_dir=FOLDER; the "
        "imaging is drawn"
    ),
    downloads=(),
    drawn="SYNTHETIC INTENSITIES: the masks are those of KiTS19, the images are drawn.",
    stands_for="kits19",
)

PHANTOM = Spec(
    name="phantom",
    title="Vessel phantom",
    classes=("background", "vessel"),
    channels=3,
    dtype="uint8",
    size=(96, 96),
    counts=(32, 8, 20),
    homepage="",
    licence="Apache-2.0, as dicepp_jax, which draws it.",
    citation="dicepp_jax.data.phantom.vessels",
    drawn="DRAWN IMAGES, of no patient.",
)

RARE = {
    share: dataclasses.replace(
        PHANTOM,
        name=f"phantom_1in{round(1 / share)}",
        title=f"Lesion phantom, 1 pixel in {round(1 / share)}",
        classes=("background", "lesion"),
        channels=1,
        # A lesion of 1 pixel in 10000 has 3 to 10 pixels.
        size=(256, 256),
        citation="dicepp_jax.data.phantom.lesion",
    )
    for share in (0.1, 0.01, 0.001, 0.0001)
}
"""The lesion phantoms by their share of foreground."""

PHANTOM_3D = Spec(
    name="phantom_3d",
    title="Kidney phantom",
    classes=("background", "kidney", "tumour"),
    channels=1,
    dtype="int16",
    size=(32, 64, 64),
    counts=(12, 4, 8),
    intensity_range=(-79.0, 304.0),
    homepage="",
    licence="Apache-2.0, as dicepp_jax, which draws it.",
    citation="dicepp_jax.data.phantom.kidney",
    drawn="DRAWN IMAGES, of no patient.",
)
