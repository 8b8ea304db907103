# ruff: noqa: E501  (tables of words)
"""keyring: keys of the caller's session are the caller's."""

from __future__ import annotations

import pytest

from hostile.harness import script, stores

#: a process with a secret in its session keyring runs the attack
CALLER = """
import json
from hostile.harness import Attack, syscall
from minibox.store.state import Store
from pathlib import Path
syscall(250, 1, None)  # a session keyring of its own
assert syscall(248, b"user", b"canary", b"secret-of-the-host", 18, -3) > 0
left_out = json.loads(sys.argv[2])
print(Attack(Store(), Path(sys.argv[1]))("/keys", "canary", leave_out=left_out, **json.loads(sys.argv[3])).out)
"""
FILTER, KEYRING = "seccomp.load", "process.keyring"


def search(attack, *left_out, options="{}"):
    import json

    done = script(CALLER, attack.rootfs, json.dumps(left_out), options, env=stores(attack.store))
    assert done.returncode == 0, done.stderr
    return dict(line.split() for line in done.stdout.splitlines() if line)


@pytest.mark.parametrize("options", ["{}", pytest.param('{"userns": "host"}', marks=pytest.mark.root)])
def test_neither_the_callers_keys_nor_new_ones(attack, options):
    assert search(attack, options=options) == {"search": "EPERM", "add": "EPERM"}


def test_one_of_the_two_defences_hides_the_key(attack):
    assert search(attack, KEYRING) == {"search": "EPERM", "add": "EPERM"}
    assert search(attack, FILTER) == {"search": "ENOKEY", "add": "ok"}


def test_without_both_the_secret_is_read(attack):
    assert search(attack, KEYRING, FILTER)["secret"] == "secret-of-the-host"
