"""setgroups (CVE-2014-8989): a file that is closed to a group must stay closed to its members."""

from __future__ import annotations

import json
import os

import pytest

from hostile.harness import script


@pytest.mark.rootless
def test_groups_cannot_be_dropped(attack):
    """With a single id.  With a range, newgidmap(1) is the one to decide, by /etc/subgid."""
    maps = {"uidmap": [f"0:{os.geteuid()}:1"], "gidmap": [f"0:{os.getegid()}:1"]}
    ended = attack.sh("cat /proc/self/setgroups; /ids setgroups", **maps)
    assert ended.out.startswith("deny\nsetgroups EPERM\n"), (ended.error, ended.err)


@pytest.mark.rootless
def test_the_kernel_insists(attack):
    maps = {"uidmap": [f"0:{os.geteuid()}:1"], "gidmap": [f"0:{os.getegid()}:1"]}
    ended = attack("/ids", leave_out=("user.setgroups",), **maps)
    assert ended.step == "user.map-gids"
    assert ended.error.errno == 1


#: root becomes an ordinary user with one more group, to whom a file is closed
CALLER = """
import json, os
from pathlib import Path
os.setgroups([54321]); os.setresgid(54320, 54320, 54320); os.setresuid(54320, 54320, 54320)
import ctypes
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # its own /proc files again: PR_SET_DUMPABLE
os.environ["HOME"] = sys.argv[2]
from hostile.harness import Attack
from minibox.store.state import Store
attack = Attack(Store(sys.argv[2] + "/run", sys.argv[2] + "/data"), Path(sys.argv[1]))
maps = {"uidmap": ["0:54320:1"], "gidmap": ["0:54320:1"]}
how = json.loads(sys.argv[4])
ended = attack.sh("/ids setgroups; cat /vol/file", volume=[sys.argv[3] + ":/vol"], **maps, **how)
print(json.dumps([ended.out, ended.err, ended.step]))
"""


@pytest.mark.root
def test_a_file_that_denies_a_group_stays_denied(attack, tripwire, probe_root):
    os.chown(tripwire / "file", 0, 54321)
    os.chmod(tripwire / "file", 0o604)
    home = tripwire.parent / "home"
    home.mkdir()
    os.chown(home, 54320, 54320)
    for parent in probe_root.parents:
        if parent.stat().st_mode & 0o777 == 0o700:
            parent.chmod(0o711)

    def run(**how):
        done = script(CALLER, probe_root, home, tripwire, json.dumps(how))
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    out, err, step = run()
    assert step == "", out
    assert out.startswith("setgroups EPERM\n")
    assert "Permission denied" in err
    assert "untouched" not in out
    # The kernel takes no gid_map before setgroups is denied, so that the step cannot be left out.
    assert run(leave_out=["user.setgroups"])[2] == "user.map-gids"
