"""What a cgroup file says, beside what was written to it: the kernel does not repeat it word for word."""

from __future__ import annotations

import os

HUGE = 1 << 60  # what "unlimited" reads as on v1 is above


def agree(file: str, found: str, wanted: str) -> bool:
    """Whether the text of a file is what the kernel makes of `wanted`, which was written to it."""
    found = found.strip()
    if found == wanted:
        return True
    if file.startswith("cpuset."):
        return numbers(found) == numbers(wanted)
    if file == "memory.oom_control":
        return f"oom_kill_disable {wanted}" in found.splitlines()
    if file == "cpu.max":
        return found.split()[: len(wanted.split())] == wanted.split()
    device, space, value = wanted.partition(" ")
    if space:  # a line for each device, interface or page size
        return any(_line_agrees(line, device, value) for line in found.splitlines())
    lines = found.splitlines()
    if len(lines) > 1 or " " in found:  # io.weight and its like: "default 100"
        return any(line.split()[0] == "default" and line.split()[1:] == [wanted] for line in lines)
    return _same_number(found, wanted)


def _line_agrees(line: str, device: str, value: str) -> bool:
    words = line.split()
    if not words or words[0] != device:
        return False
    if words[1:] == value.split():
        return True
    found = dict(word.partition("=")[::2] for word in words[1:])
    return all(
        found.get(word.partition("=")[0]) == word.partition("=")[2] for word in value.split() if "=" in word
    ) and ("=" in value)


def _same_number(found: str, wanted: str) -> bool:
    """Memory is rounded down to pages, and -1 reads as a huge number or "max"."""
    if wanted.lstrip("-").isdigit() and int(wanted) < 0:
        return found == "max" or (found.isdigit() and int(found) > HUGE)
    if not (found.isdigit() and wanted.isdigit()):
        return False
    page = os.sysconf("SC_PAGE_SIZE")
    return int(found) == int(wanted) // page * page


def numbers(text: str) -> set[int]:
    """The numbers of a list such as "0-1,3"."""
    found: set[int] = set()
    for part in text.split(",") if text else ():
        first, _, last = part.partition("-")
        if not first.isdigit() or (last and not last.isdigit()):
            return set()
        found.update(range(int(first), int(last or first) + 1))
    return found
