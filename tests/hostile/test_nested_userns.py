"""nested-userns (CVE-2022-0185): a user namespace inside gives every capability back."""

from __future__ import annotations

import pytest

#: a root's own count of user namespaces, or the filter: each alone keeps them closed
SYSCTL, FILTER = "sysctl.user.max_user_namespaces", "seccomp.load"


def ways(ended):
    return dict(line.split() for line in ended.out.splitlines())


def test_no_user_namespace_can_be_made(attack):
    assert ways(attack("/nest")) == {"unshare": "EPERM", "clone": "EPERM", "clone3": "ENOSYS"}


@pytest.mark.parametrize(("left_out", "errno"), [(FILTER, "ENOSPC"), (SYSCTL, None)])
def test_one_of_the_two_defences_is_enough(attack, left_out, errno):
    found = ways(attack("/nest", leave_out=(left_out,)))
    assert "ok" not in found.values()
    if errno:
        assert set(found.values()) == {errno}


def test_without_both_there_are_three_ways(attack):
    found = ways(attack("/nest", leave_out=(FILTER, SYSCTL)))
    assert found == {"unshare": "ok", "clone": "ok", "clone3": "ok"}


@pytest.mark.root
def test_without_a_user_namespace_the_filter_closes_it(attack):
    """The count is then the host's own and is left alone; without the filter the kernel lets anybody."""
    assert "ok" not in ways(attack("/nest", userns="host")).values()
    assert ways(attack("/nest", userns="host", leave_out=(FILTER,)))["unshare"] == "ok"


@pytest.mark.root
def test_a_container_with_cap_sys_admin_stays_closed(attack):
    """CAP_SYS_ADMIN opens the calls in the filter; the count is not in the container's gift."""
    assert "ok" not in ways(attack("/nest", cap_add=["SYS_ADMIN"])).values()
