# ruff: noqa: E501  (tables of words)
"""proc-global: settings of the whole machine.  Files are opened for writing and never written to."""

from __future__ import annotations

from pathlib import Path

import pytest

FILES = (
    "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/kernel/panic", "/proc/sys/vm/drop_caches",
    "/proc/sys/vm/overcommit_memory", "/proc/sys/fs/file-max", "/proc/sys/kernel/randomize_va_space", "/proc/sysrq-trigger",
    "/proc/irq/default_smp_affinity", "/proc/sys/kernel/printk", "/sys/kernel/mm/transparent_hugepage/enabled",
    "/sys/kernel/profiling", "/sys/power/state", "/sys/module/printk/parameters/time", "/proc/kcore", "/proc/bus/input/devices",
)  # fmt: skip
SCRIPT = (
    "for file in "
    + " ".join(FILES)
    + "; do [ -e $file ] && (: >>$file) 2>/dev/null && echo opened $file; done; true"
)
#: /proc/pressure is written to by whoever wants to be woken: a trigger belongs to the descriptor
ALL = (
    "for file in $(find /proc /sys -xdev -maxdepth 4 -type f -perm /222 ! -path '/proc/pressure/*' ! -path '/proc/[0-9]*' ! -path '/proc/self/*' ! -path '/proc/thread-self/*'); "
    "do [ -w $file ] && (: >>$file) 2>/dev/null && echo opened $file; done; true"
)
HOST = pytest.param({"userns": "host"}, marks=pytest.mark.root)


@pytest.mark.parametrize("how", [{}, HOST])
def test_none_can_be_opened(attack, how):
    assert attack.sh(SCRIPT, **how).out == ""


@pytest.mark.parametrize("how", [{}, HOST])
def test_nothing_at_all_outside_the_processes_directories(attack, how):
    assert attack.sh(ALL, **how).out == ""


@pytest.mark.root
def test_a_user_namespace_alone_is_enough_and_without_one_they_open(attack):
    opened = attack.sh(SCRIPT, leave_out=("readonly",)).out
    assert opened == ""
    opened = attack.sh(SCRIPT, leave_out=("readonly",), userns="host").out
    for name in ("kernel/core_pattern", "vm/drop_caches", "kernel/printk"):
        assert f"opened /proc/sys/{name}\n" in opened
    assert "opened /proc/sysrq-trigger\n" in opened or not Path("/proc/sysrq-trigger").exists()
