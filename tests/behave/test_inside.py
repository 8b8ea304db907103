"""What a process in a default container sees and may do."""

from __future__ import annotations

import pytest


def test_it_is_root_and_alone(minibox):
    out = minibox.inside("id -u; echo $$; ps -o pid= | wc -l")
    assert out.split() == ["0", "1", "3"]  # sh, ps and wc


@pytest.mark.root
def test_pid_one_has_an_unprivileged_uid_outside(minibox, rootfs):
    minibox("run", "-d", "--name", "one", rootfs, "sleep", "60")
    pid = minibox.state("one")["pid"]
    with open(f"/proc/{pid}/status") as file:
        uids = next(line for line in file if line.startswith("Uid:")).split()[1:]
    assert len(set(uids)) == 1
    assert int(uids[0]) > 65536
