"""What the steps say that they stop: names out of one list, and no threat of it without a step."""

from __future__ import annotations

import pytest
from hosts import HOSTS, OPTIONS, PLAIN, ROOT_HYBRID, ROOT_V2, plan

#: the rows of docs/security.md
THREATS = [
    "exe-overwrite",
    "interpreter-hijack",
    "joined-ptrace",
    "fd-leak",
    "message-truncation",
    "inheritable-caps",
    "user-parse",
    "suid",
    "mount-symlink-race",
    "proc-is-fake",
    "proc-write-redirect",
    "mask-null-fake",
    "console-link",
    "dev-link",
    "propagation",
    "cgroupfs-writable",
    "sysctl-inject",
    "proc-global",
    "proc-leak",
    "release-agent",
    "handle-walk",
    "mknod",
    "nested-userns",
    "setgroups",
    "keyring",
    "tty-inject",
    "kernel-surface",
    "socket-family",
    "seccomp-abi",
    "abstract-socket",
    "pids",
    "memory",
    "tmpfs",
    "fds",
    "residue",
]
#: those that have to be stopped by a step of the Plan, each with a test of a hostile root
WANTED = [
    "exe-overwrite",
    "interpreter-hijack",
    "joined-ptrace",
    "fd-leak",
    "inheritable-caps",
    "user-parse",
    "suid",
    "mount-symlink-race",
    "proc-is-fake",
    "mask-null-fake",
    "console-link",
    "dev-link",
    "propagation",
    "nested-userns",
    "setgroups",
    "keyring",
    "tty-inject",
    "seccomp-abi",
    "abstract-socket",
    "pids",
    "memory",
]


@pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS)
def test_every_guard_is_a_threat_of_the_list(host):
    for options in OPTIONS.values():
        for step in plan(host, **options):
            assert set(step.guards) <= set(THREATS), step.id


@pytest.mark.parametrize("host", [ROOT_V2, ROOT_HYBRID], ids=["v2", "hybrid"])
@pytest.mark.parametrize("threat", WANTED)
def test_every_threat_is_stopped_by_a_step(host, threat):
    found = plan(
        host,
        memory="64m",
        tmpfs=["/t"],
        volume=["/etc:/x"],
        terminal=(0, 1, 2),
        network="ns:/proc/self/ns/net",
    )
    assert [step.id for step in found if threat in step.guards]


@pytest.mark.parametrize(
    "threat", [one for one in WANTED if one not in ("memory", "pids", "mount-symlink-race", "joined-ptrace")]
)
def test_an_ordinary_user_is_guarded_too(threat):
    found = plan(PLAIN, terminal=(0, 1, 2))
    assert [step.id for step in found if threat in step.guards]


def test_privileged_says_what_it_gives_up():
    given = {guard for step in plan(ROOT_V2) for guard in step.guards}
    left = {guard for step in plan(ROOT_V2, privileged=True) for guard in step.guards}
    assert {"nested-userns", "seccomp-abi", "kernel-surface", "proc-leak"} <= given - left


def test_leaving_a_guard_out_is_seen_in_the_difference():
    from minibox.plan import edit, show

    found = plan(ROOT_V2)
    for step in found:
        if step.guards:
            assert any(
                line.startswith(f"- {step.id} ")
                for line in show.diff(found, edit.leave_out(found, (step.id,)))
            )
