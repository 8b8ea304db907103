# ruff: noqa: E501  (tables of words)
"""socket-family: families whose code is the kernel's least trodden, also by the upper half of the register."""

from __future__ import annotations

FAMILIES = {
    "AX25": 3,
    "PACKET": 17,
    "RDS": 21,
    "CAN": 29,
    "TIPC": 30,
    "BLUETOOTH": 31,
    "ALG": 38,
    "VSOCK": 40,
    "XDP": 44,
}
ABSENT = "EAFNOSUPPORT"


def sockets(attack, high=0, **how):
    lines = "; ".join(
        f"echo {name} $(/call 41 {high << 32 | number} 1 0)" for name, number in FAMILIES.items()
    )
    return dict(line.split(None, 1) for line in attack.sh(lines, **how).out.splitlines())


def test_other_families_are_refused(attack):
    assert sockets(attack) == dict.fromkeys(FAMILIES, "EPERM")
    assert sockets(attack, high=1) == dict.fromkeys(FAMILIES, "EPERM")


def test_without_the_filter_the_kernel_answers_itself(attack):
    """AF_VSOCK where the kernel has it (it reaches the hypervisor, from any network namespace)."""
    for high in (0, 1):
        found = sockets(attack, high, leave_out=("seccomp.load",))
        assert "EPERM" not in {found["VSOCK"], found["ALG"]}
        assert found["VSOCK"].startswith("ok") or found["VSOCK"] == ABSENT


def test_the_ordinary_ones_work(attack):
    ended = attack.sh("for family in 1 2 10 16; do /call 41 $family 2 0; done")
    assert [line.split()[0] for line in ended.out.splitlines()][:3] == ["ok", "ok", "ok"]
