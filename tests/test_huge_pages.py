"""A process is started again with huge pages once, as it was started."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.setup import huge_pages

PROGRAM = """
import os, sys
from pathlib import Path
from experiments.setup import huge_pages
huge_pages.POLICY = Path(sys.argv[1])
huge_pages.use()
print(os.environ.get("GLIBC_TUNABLES"), *sys.argv[2:], sys.stdin.read())
sys.exit(7)
"""


def start(tmp_path: Path, policy: str, tunables: str | None) -> subprocess.CompletedProcess[str]:
    path = tmp_path / "enabled"
    path.write_text(policy)
    environment = {k: v for k, v in os.environ.items() if k != huge_pages.TUNABLES}
    if tunables is not None:
        environment[huge_pages.TUNABLES] = tunables
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path), "--size=(3, 4)", "two words"],
        cwd=Path(__file__).parents[1],
        env=environment,
        input="what is piped",
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("policy", "before", "after"),
    [
        ("always [madvise] never", None, "glibc.malloc.hugetlb=1"),
        ("always [madvise] never", "glibc.malloc.arena_max=4",
         "glibc.malloc.arena_max=4:glibc.malloc.hugetlb=1"),
        ("always [madvise] never", "glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=0"),
        ("[always] madvise never", None, "None"),
        ("always madvise [never]", None, "None"),
    ],
)  # fmt: skip
def test_the_same_program_with_huge_pages(
    tmp_path: Path, policy: str, before: str | None, after: str
) -> None:
    done = start(tmp_path, policy, before)
    tunables, rest = done.stdout.split(maxsplit=1)
    assert (tunables, rest) == (after, "--size=(3, 4) two words what is piped\n")
    assert (done.returncode, done.stderr) == (7, "")


def test_a_system_without_a_policy_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huge_pages, "POLICY", tmp_path / "none")
    monkeypatch.delenv(huge_pages.TUNABLES, raising=False)
    monkeypatch.setattr(os, "execve", lambda *args: pytest.fail("started again"))
    huge_pages.use()
