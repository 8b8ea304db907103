"""propagation: mounts of a container that travel to the host, or stay there."""

from __future__ import annotations

import json

import pytest

from hostile.harness import script, stores

pytestmark = pytest.mark.root

#: a host whose mounts are shared, as systemd's are, in a mount namespace of its own
CALLER = """
import json, os
from pathlib import Path
from hostile.harness import Attack
from minibox.kernel import calls
from minibox.kernel import consts as c
from minibox.store.state import Store
calls.unshare(c.CLONE_NEWNS)
calls.mount_setattr(c.AT_FDCWD, "/", c.AT_RECURSIVE, propagation=c.MS_PRIVATE)
calls.mount_setattr(c.AT_FDCWD, "/", c.AT_RECURSIVE, propagation=c.MS_SHARED)
times, how = int(sys.argv[2]), json.loads(sys.argv[3])
before = Path("/proc/self/mountinfo").read_bytes()
attack = Attack(Store(), Path(sys.argv[1]))
failed = []
try:
    failed += [ended.error for ended in (attack("true", **how) for _ in range(times)) if ended.code]
except OSError as error:  # the mount over /tmp has arrived here, and the store is below it
    failed.append(error)
print(json.dumps([Path("/proc/self/mountinfo").read_bytes() == before, [str(one) for one in failed]]))
"""


def same(attack, times, **how):
    done = script(CALLER, attack.rootfs, times, json.dumps(how), env=stores(attack.store))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "how", [{}, {"userns": "host"}, {"volume": ["/etc:/mnt/etc:ro"], "tmpfs": ["/scratch"]}]
)
def test_mountinfo_is_byte_equal(attack, how):
    assert same(attack, 34, **how) == [True, []]  # about a hundred runs in all


def test_left_out_they_stay_on_the_host(attack):
    """Without a user namespace; with one, the kernel itself makes the copy a slave of the host's mounts."""
    assert same(attack, 1, userns="host", leave_out=("mount.private",))[0] is False
    assert same(attack, 1, leave_out=("mount.private",))[0] is True
