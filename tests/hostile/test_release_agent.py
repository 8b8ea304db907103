# ruff: noqa: E501  (tables of words)
"""release-agent (CVE-2022-0492) and its like: files that name a program for the host's kernel to run.

They are opened for writing and never written to.
"""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.root
FILES = "/proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /sys/kernel/uevent_helper /proc/sys/fs/binfmt_misc/register"
OPEN = f"for file in {FILES}; do [ -e $file ] && (: >>$file) && echo opened $file; done 2>&1"
#: a v1 hierarchy of one's own, whose root has the file that matters
MOUNT = "mkdir -p /tmp/c && mount -t cgroup -o pids x /tmp/c && (: >>/tmp/c/release_agent) && echo opened"


@pytest.fixture
def hierarchy():
    with open("/proc/mounts") as file:
        if not any(" cgroup " in line and "pids" in line for line in file):
            pytest.skip("this host has no cgroup v1 hierarchy of pids")


@pytest.mark.parametrize("how", [{}, {"userns": "host"}])
def test_they_cannot_be_opened(attack, how):
    assert "opened" not in attack.sh(OPEN, **how).out


@pytest.mark.parametrize("how", [{}, {"userns": "host"}])
def test_no_hierarchy_can_be_mounted(attack, hierarchy, how):
    assert "opened" not in attack.sh(MOUNT, **how).out


def test_each_layer_keeps_it_closed(attack, hierarchy):
    """CAP_SYS_ADMIN and no filter: then the cgroup namespace, whose root is not the hierarchy's, and the
    user namespace, whose root may mount and is nobody to the file."""
    strong = {"cap_add": ["SYS_ADMIN"], "seccomp": "unconfined"}
    assert "opened" not in attack.sh(MOUNT, **strong).out
    assert "opened" not in attack.sh(MOUNT, userns="host", **strong).out
    assert "opened" not in attack.sh(MOUNT, leave_out=("cgroup.namespace",), **strong).out
    ended = attack.sh(MOUNT, userns="host", leave_out=("cgroup.namespace",), **strong)
    assert ended.out == "opened\n", ended.err
