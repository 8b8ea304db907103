"""docs/security.md names every threat that a step guards against, and nothing that has no test."""

from __future__ import annotations

from pathlib import Path

import pytest

from minibox.runtime import prepare
from minibox.store.state import Store

CHECKOUT = Path(__file__).resolve().parents[2]
PAGE = (CHECKOUT / "docs" / "security.md").read_text()
ROWS = {
    name.strip()
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith("| id")
    for name in line.split("|")[1].split(",")
}
WITHOUT_A_STEP = {"shared-inode"}  # known and open
ELSEWHERE = {"residue": "behave/test_residue.py"} | dict.fromkeys(
    ("pids", "memory", "tmpfs", "fds"), "hostile/test_exhaustion.py"
)


@pytest.mark.parametrize("options", [{}, {"terminal": (0, 1, 2)}, {"network": "host"}])
def test_every_guard_of_a_plan_is_a_row(options, tmp_path):
    store = Store(str(tmp_path / "run"), str(tmp_path / "data"))
    rootfs = str(CHECKOUT / "rootfs")
    plan = prepare.container(store, "page", rootfs, ("sh",), options, reserve=False).plan
    guards = {guard for step in plan for guard in step.guards}
    assert len(guards) > 20
    assert guards <= ROWS


def test_every_row_has_its_tests():
    for row in ROWS - WITHOUT_A_STEP:
        place = ELSEWHERE.get(row, f"hostile/test_{row.replace('-', '_')}.py")
        assert (CHECKOUT / "tests" / place).exists(), row
