# ruff: noqa: E501  (tables of words)
"""inheritable-caps (CVE-2022-24769, CVE-2022-29162): inheritable capabilities plus a file's give permitted ones."""

from __future__ import annotations

import json
import os
import struct

import pytest

from hostile.harness import script, stores

pytestmark = pytest.mark.root

#: a caller with CAP_NET_RAW (13) and CAP_NET_ADMIN (12) inheritable, as a login service may leave it
CALLER = """
import json
from pathlib import Path
from hostile.harness import Attack
from minibox.kernel import calls
from minibox.store.state import Store
effective, permitted, _ = calls.capget()
calls.capset(effective, permitted, 1 << 12 | 1 << 13)
how = json.loads(sys.argv[2])
attack = Attack(Store(), Path(sys.argv[1]))
if how.pop("exec", False):
    left_out = how.pop("leave_out", ())
    with attack.running("sh", "-c", "echo up; exec sleep 30", **how) as container:
        print(attack.exec(container.state["id"], "/ids", leave_out=left_out).out)
else:
    print(attack("/ids", **how).out)
"""
NET_RAW = 1 << 13


@pytest.fixture
def sets(attack, own_root):
    """The capability sets of /ids, a file with +ei CAP_NET_RAW, run in a container by such a caller."""
    # struct vfs_cap_data, version 2, effective: <linux/capability.h>
    data = struct.pack("<5I", 0x02000000 | 1, 0, NET_RAW, 0, 0)
    os.setxattr(own_root / "ids", "security.capability", data)

    def run(**how: object) -> dict[str, int]:
        done = script(CALLER, own_root, json.dumps(how), env=stores(attack.store))
        assert done.returncode == 0, done.stderr
        lines = (line.split() for line in done.stdout.splitlines() if line.startswith("Cap"))
        return {name.rstrip(":"): int(value, 16) for name, value in lines}

    return run


@pytest.mark.parametrize("how", [{}, {"userns": "host"}, {"exec": True}, {"exec": True, "userns": "host"}])
def test_the_inheritable_set_is_empty(sets, how):
    assert sets(**how)["CapInh"] == 0


@pytest.mark.parametrize("how", [{}, {"exec": True}, {"userns": "host"}])
def test_a_file_gains_nothing(sets, how):
    found = sets(user="1000", allow_new_privs=True, cap_drop=["ALL"], **how)
    assert found["CapPrm"] == found["CapEff"] == found["CapInh"] == found["CapBnd"] == 0


@pytest.mark.parametrize("how", [{}, {"exec": True}])
def test_without_capset_the_file_gains_it(sets, how):
    """Only where there is no user namespace: the kernel empties the set of whoever makes one."""
    found = sets(user="1000", allow_new_privs=True, userns="host", leave_out=("caps.set",), **how)
    assert found["CapInh"] & NET_RAW
    assert found["CapPrm"] & NET_RAW
    if not how:
        assert sets(user="1000", allow_new_privs=True, leave_out=("caps.set",))["CapInh"] == 0
