# ruff: noqa: E501  (tables of words)
"""cgroupfs-writable (CVE-2023-25809): groups made, or limits lifted, from inside."""

from __future__ import annotations

import pytest

from hostile.harness import without_attribute

TOP = "$(ls -d /sys/fs/cgroup/pids 2>/dev/null || echo /sys/fs/cgroup)"
SCRIPT = (
    f"top={TOP}; mkdir $top/made; (echo max >$top/pids.max); (echo 1 >$top/notify_on_release); (echo x >$top/release_agent); "
    "ls -d $top/made 2>/dev/null; cat $top/pids.max 2>/dev/null"
)
READ_WRITE = without_attribute("mount.sys-fs-cgroup", "ro")


@pytest.mark.parametrize("how", [{}, pytest.param({"userns": "host"}, marks=pytest.mark.root)])
def test_everything_is_read_only(attack, how):
    ended = attack.sh(SCRIPT, pids_limit="77", **how)
    assert ended.err.count("Read-only file system") >= 2
    assert "made" not in ended.out
    assert "max" not in ended.out


@pytest.mark.root
def test_without_it_the_owner_of_the_files_decides(attack):
    """With a user namespace that is an id that is not mapped; without one it is the container's root."""
    ended = attack.sh(SCRIPT, pids_limit="77", change=READ_WRITE)
    assert "made" not in ended.out
    ended = attack.sh(SCRIPT, pids_limit="77", change=READ_WRITE, userns="host")
    assert "made" in ended.out
    assert "max" in ended.out


@pytest.mark.root
def test_without_the_cgroup_namespace_the_hosts_groups_are_seen(attack):
    script = "cat /proc/self/cgroup; ls /sys/fs/cgroup/pids /sys/fs/cgroup"
    for how in ({}, {"userns": "host"}):
        assert "minibox-" not in attack.sh(script, **how).out
    # A user namespace may not even mount the hierarchy then.
    assert attack.sh(script, leave_out=("cgroup.namespace",)).step == "mount.sys-fs-cgroup"
    assert "minibox-hostile" in attack.sh(script, leave_out=("cgroup.namespace",), userns="host").out
