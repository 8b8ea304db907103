# ruff: noqa: E501  (tables of words)
"""proc-leak: files that tell about the machine and its other users."""

from __future__ import annotations

import os

import pytest

from minibox.spec import defaults

FILES = [path for path in defaults.masked_paths(os.cpu_count() or 1) if os.path.isfile(path)]
DIRECTORIES = [path for path in defaults.masked_paths(os.cpu_count() or 1) if os.path.isdir(path)]
#: those that are open to anybody without the masks
OPEN = (
    "/proc/keys",
    "/proc/interrupts",
    "/proc/kallsyms",
    "/proc/key-users",
    "/proc/vmallocinfo",
    "/proc/timer_list",
)
HOST = pytest.param({"userns": "host"}, marks=pytest.mark.root)
READ = "for file in $FILES; do n=$(head -c 100 $file 2>/dev/null | wc -c); [ $n = 0 ] || echo read $file; done; true"
LIST = 'for place in $FILES; do [ -z "$(ls -A $place 2>/dev/null)" ] || echo listed $place; done; true'
#: what others found in moby's list, 2025 and 2026 included
MOBY = (
    "/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
    "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
)  # fmt: skip


def test_the_list_is_as_long_as_dockers():
    assert set(MOBY) <= set(defaults.MASKED_PATHS)


@pytest.mark.parametrize("how", [{}, HOST])
def test_files_are_empty(attack, how):
    assert attack.sh(READ, env=["FILES=" + " ".join(FILES)], **how).out == ""
    assert attack.sh(LIST, env=["FILES=" + " ".join(DIRECTORIES)], **how).out == ""


def test_exec_sees_them_empty_too(attack):
    with attack.running("sh", "-c", "echo up; exec sleep 30") as container:
        ended = attack.exec(container.state["id"], "sh", "-c", READ, env=["FILES=" + " ".join(FILES)])
        assert ended.out == ""


def test_without_the_masks_some_are_open(attack):
    env = ["FILES=" + " ".join(path for path in OPEN if os.path.exists(path))]
    read = attack.sh(READ, env=env, leave_out=("mask",)).out
    assert "/proc/interrupts" in read
    assert "/proc/keys" in read or "/proc/key-users" in read
