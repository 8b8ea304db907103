"""The host's cgroup hierarchies, by texts of /proc as real machines have them."""

# ruff: noqa: E501  (lines of /proc are as long as they are)
from __future__ import annotations

import pytest

from minibox.cgroup import detect

ROOT = "22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n"

V1_GROUPS = """\
12:pids:/user.slice/user-1000.slice/session-3.scope
11:cpuset:/
10:memory:/user.slice/user-1000.slice/session-3.scope
9:net_cls,net_prio:/
8:cpu,cpuacct:/user.slice
7:devices:/user.slice
1:name=systemd:/user.slice/user-1000.slice/session-3.scope
"""
V1_MOUNTS = (
    ROOT
    + """\
30 24 0:26 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:9 - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/systemd rw,nosuid,nodev,noexec,relatime shared:10 - cgroup cgroup rw,xattr,release_agent=/lib/systemd/systemd-cgroups-agent,name=systemd
35 30 0:31 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid,nodev,noexec,relatime shared:15 - cgroup cgroup rw,cpu,cpuacct
36 30 0:32 / /sys/fs/cgroup/memory rw,nosuid,nodev,noexec,relatime shared:16 - cgroup cgroup rw,memory
37 30 0:33 / /sys/fs/cgroup/pids rw,nosuid,nodev,noexec,relatime shared:17 - cgroup cgroup rw,pids
38 30 0:34 / /sys/fs/cgroup/cpuset rw,nosuid,nodev,noexec,relatime shared:18 - cgroup cgroup rw,cpuset
39 30 0:35 / /sys/fs/cgroup/net_cls,net_prio rw,nosuid,nodev,noexec,relatime shared:19 - cgroup cgroup rw,net_cls,net_prio
40 30 0:36 / /sys/fs/cgroup/devices rw,nosuid,nodev,noexec,relatime shared:20 - cgroup cgroup rw,devices
"""
)
HYBRID_GROUPS = V1_GROUPS + "0::/user.slice/user-1000.slice/session-3.scope\n"
HYBRID_MOUNTS = (
    V1_MOUNTS
    + "32 30 0:28 / /sys/fs/cgroup/unified rw,nosuid,nodev,noexec,relatime shared:11 - cgroup2 cgroup2 rw,nsdelegate\n"
)
V2_MOUNTS = ROOT + (
    "31 24 0:27 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 "
    "rw,nsdelegate,memory_recursiveprot\n"
)
SCOPE = "/user.slice/user-1000.slice/user@1000.service/app.slice/run-r5.scope"
DOCKER_GROUPS = """\
12:pids:/docker/4f2a
10:memory:/docker/4f2a
8:cpu,cpuacct:/docker/4f2a
1:name=systemd:/docker/4f2a
0::/system.slice/containerd.service
"""
DOCKER_MOUNTS = """\
1100 900 0:60 / / rw,relatime master:300 - overlay overlay rw,lowerdir=/var/lib/docker/l/A:/var/lib/docker/l/B
1110 1100 0:65 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime - tmpfs tmpfs rw,mode=755
1111 1110 0:27 /docker/4f2a /sys/fs/cgroup/systemd ro,nosuid,nodev,noexec,relatime master:10 - cgroup cgroup rw,xattr,name=systemd
1112 1110 0:31 /docker/4f2a /sys/fs/cgroup/cpu,cpuacct ro,nosuid,nodev,noexec,relatime master:15 - cgroup cgroup rw,cpu,cpuacct
1113 1110 0:32 /docker/4f2a /sys/fs/cgroup/memory ro,nosuid,nodev,noexec,relatime master:16 - cgroup cgroup rw,memory
1114 1110 0:33 /docker/4f2a /sys/fs/cgroup/pids ro,nosuid,nodev,noexec,relatime master:17 - cgroup cgroup rw,pids
"""


def directories(found: detect.Cgroups) -> dict[str, str]:
    """The caller's own directory for each set of controllers."""
    return {",".join(one.controllers): one.directory for one in found.v1}


def test_v1():
    found = detect.parse(V1_GROUPS, V1_MOUNTS)
    assert found.mode == "v1"
    assert found.v2 is None
    session = "/user.slice/user-1000.slice/session-3.scope"
    assert directories(found) == {
        "name=systemd": f"/sys/fs/cgroup/systemd{session}",
        "cpu,cpuacct": "/sys/fs/cgroup/cpu,cpuacct/user.slice",
        "memory": f"/sys/fs/cgroup/memory{session}",
        "pids": f"/sys/fs/cgroup/pids{session}",
        "cpuset": "/sys/fs/cgroup/cpuset",
        "net_cls,net_prio": "/sys/fs/cgroup/net_cls,net_prio",
        "devices": "/sys/fs/cgroup/devices/user.slice",
    }
    assert found.find("cpuacct") is found.find("cpu")
    assert found.find("hugetlb") is None


def test_hybrid():
    found = detect.parse(HYBRID_GROUPS, HYBRID_MOUNTS)
    assert found.mode == "hybrid"
    assert found.v2 is not None
    assert found.v2.directory == "/sys/fs/cgroup/unified/user.slice/user-1000.slice/session-3.scope"
    assert directories(found) == directories(detect.parse(V1_GROUPS, V1_MOUNTS))


def test_hybrid_with_a_controller_that_v2_has():
    found = detect.parse(HYBRID_GROUPS, HYBRID_MOUNTS, ("hugetlb",))
    assert found.find("hugetlb") is found.v2
    assert found.find("memory") in found.v1


def test_v2():
    found = detect.parse("0::/init.scope\n", V2_MOUNTS, ("cpu", "memory", "pids"))
    assert (found.mode, found.v1) == ("v2", ())
    assert found.v2 is not None
    assert found.v2.directory == "/sys/fs/cgroup/init.scope"
    assert found.find("memory") is found.v2
    assert found.find("cpuset") is None


def test_v2_with_a_named_v1_hierarchy_is_v2():
    """As systemd leaves it for old programs: no controller is in it."""
    groups = "1:name=old:/\n0::/\n"
    mounts = V2_MOUNTS + "50 31 0:44 / /mnt/old rw - cgroup cgroup rw,name=old\n"
    found = detect.parse(groups, mounts)
    assert found.mode == "v2"
    assert directories(found) == {"name=old": "/mnt/old"}


def test_a_delegated_group_of_a_systemd_user():
    found = detect.parse(f"0::{SCOPE}\n", V2_MOUNTS)
    assert found.v2 is not None
    assert found.v2.directory == f"/sys/fs/cgroup{SCOPE}"


def test_inside_docker_on_v1():
    """The mounts begin at the container's own group, so the path of /proc/self/cgroup is not below them."""
    found = detect.parse(DOCKER_GROUPS, DOCKER_MOUNTS)
    assert found.mode == "v1"
    assert directories(found) == {
        "name=systemd": "/sys/fs/cgroup/systemd",
        "cpu,cpuacct": "/sys/fs/cgroup/cpu,cpuacct",
        "memory": "/sys/fs/cgroup/memory",
        "pids": "/sys/fs/cgroup/pids",
    }


def test_inside_docker_below_its_own_group():
    groups = DOCKER_GROUPS.replace(":memory:/docker/4f2a", ":memory:/docker/4f2a/inner")
    assert directories(detect.parse(groups, DOCKER_MOUNTS))["memory"] == "/sys/fs/cgroup/memory/inner"


def test_a_name_that_begins_like_the_mounts_root_is_another_group():
    groups = DOCKER_GROUPS.replace(":memory:/docker/4f2a", ":memory:/docker/4f2abc")
    assert directories(detect.parse(groups, DOCKER_MOUNTS))["memory"] == "/sys/fs/cgroup/memory"


def test_inside_docker_on_v2_with_a_cgroup_namespace():
    found = detect.parse("0::/\n", V2_MOUNTS)
    assert found.v2 is not None
    assert found.v2.directory == "/sys/fs/cgroup"


def test_a_second_mount_of_the_same_hierarchy_does_not_hide_the_first():
    mounts = V2_MOUNTS + "90 31 0:27 / /run/other rw - cgroup2 cgroup2 rw\n"
    found = detect.parse("0::/a\n", mounts)
    assert found.v2 is not None
    assert found.v2.directory == "/sys/fs/cgroup/a"


def test_a_mount_point_with_a_space():
    mounts = "31 24 0:27 / /mnt/my\\040groups rw - cgroup2 cgroup2 rw\n"
    found = detect.parse("0::/a\n", mounts)
    assert found.v2 is not None
    assert found.v2.directory == "/mnt/my groups/a"


def test_a_group_with_a_colon_in_its_name():
    found = detect.parse("0::/a:b\n", V2_MOUNTS)
    assert found.v2 is not None
    assert found.v2.own == "/a:b"


@pytest.mark.parametrize("mounts", ["", ROOT, ROOT + "31 24 0:27 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"])
def test_no_hierarchy_is_mounted(mounts):
    found = detect.parse("0::/\n", mounts)
    assert (found.mode, found.v1, found.v2) == ("none", (), None)


def test_mountinfo_with_and_without_optional_fields():
    for optional in ("", "shared:9 ", "shared:9 master:1 propagate_from:2 "):
        mounts = f"31 24 0:27 / /sys/fs/cgroup rw,relatime {optional}- cgroup2 cgroup2 rw\n"
        assert detect.parse("0::/\n", mounts).mode == "v2"


def test_it_survives_json():
    found = detect.parse(HYBRID_GROUPS, HYBRID_MOUNTS)
    assert detect.Cgroups.from_json(found.to_json()) == found


def test_the_machine_that_this_runs_on():
    found = detect.detect()
    assert found.mode in ("v1", "hybrid", "v2", "none")
