"""CVC-ClinicDB: 612 frames of 29 colonoscopy videos, each with a polyp.

`Original/1.tif` and `Ground Truth/1.tif`, or PNG files with the same names, as in some copies of
the set; if both exist, the TIFF is used.
"""

import bisect

from dicepp_jax.data import pairs
from dicepp_jax.data.builder import Case
from dicepp_jax.data.files import File, Tree, match, natural
from dicepp_jax.data.specs import CVC_CLINICDB

LAST_FRAMES = (
    *(25, 50, 67, 78, 103, 126, 151, 177, 199, 205, 227, 252, 277, 297, 317),
    *(342, 363, 383, 408, 428, 447, 466, 478, 503, 528, 546, 571, 591, 612),
)
"""The last frame of each video."""


def list_cases(files: Tree) -> list[Case]:
    """The cases by number; the group of each is its video, since its frames are near-duplicates.

    Args:
      files: those in the set's folder or archive.

    Returns:
      A case for each frame.

    Raises:
      FileNotFoundError: if nothing is found, an image or mask is missing, or the archive must be
        unpacked.
      ValueError: if there are two copies.
    """
    cases = pairs.cases(
        CVC_CLINICDB,
        files,
        pairs.Kind("image", "Original/{}.tif", _find(files, "Original")),
        pairs.Kind("mask", "Ground Truth/{}.tif", _find(files, "Ground Truth")),
    )
    return [case._replace(group=f"video {_video(int(case.id))}") for case in cases]


def _find(files: Tree, folder: str) -> dict[str, File]:
    """The folder's files by number."""
    png, tif = (match(files, rf"{folder}/(?P<case>\d{{1,3}})\.{end}") for end in ("png", "tiff?"))
    found = png | tif
    return {case: found[case] for case in sorted(found, key=natural)}


def _video(frame: int) -> int:
    return 1 + bisect.bisect_left(LAST_FRAMES, frame)
