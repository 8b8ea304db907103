"""Limits that few ask for, from flags: imported only when one of them is there."""

from __future__ import annotations

import os
import stat

from minibox.errors import SpecError
from minibox.spec import values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minibox.spec.from_flags import Options

#: name of the option -> (least, most), as the kernel has them
NUMBERS = {
    "memory_swappiness": (0, 100),
    "cpu_quota": (-1, 2**63 - 1),
    "cpu_period": (1000, 1_000_000),
    "cpu_burst": (0, 2**63 - 1),
    "cpu_rt_runtime": (-1, 2**63 - 1),
    "cpu_rt_period": (1, 2**63 - 1),
    "blkio_weight": (10, 1000),
    "net_classid": (0, 2**32 - 1),
}
#: option -> reader of its value
PER_DEVICE = (
    "blkio_weight_device",
    "device_read_bps",
    "device_write_bps",
    "device_read_iops",
    "device_write_iops",
)
RDMA = {"handles": "hca_handle", "objects": "hca_object"}
#: files of a v2 group that are no limits: they move processes, end them or hand controllers down
NO_LIMITS = ("procs", "threads", "subtree_control", "type", "kill", "freeze")
LEAST_MEMORY = 512 * 1024


def rare(options: Options, asked: dict[str, Any]) -> dict[str, Any]:
    """Fields of Resources for the options that this module knows; `asked` has the common ones.

    Raises SpecError, its pointer the flag.
    """
    found: dict[str, Any] = {}
    for name, (least, most) in NUMBERS.items():
        if name in options:
            found[name] = values.integer(options[name], _flag(name), least, most)
    if found.get("cpu_quota") not in (None, -1) and found["cpu_quota"] < 1000:
        raise SpecError("--cpu-quota", "the kernel's least is 1000 microseconds")
    if "memory_reservation" in options:
        found["memory_reservation"] = values.size(options["memory_reservation"], "--memory-reservation")
        if asked.get("memory") is not None and found["memory_reservation"] > asked["memory"]:
            raise SpecError("--memory-reservation", "is more than --memory")
    for name in ("oom_kill_disable", "check_before_update"):
        if options.get(name):
            found[name] = True
    if options.get("cpu_idle"):
        found["cpu_idle"] = 1
        if "cpu_shares" in asked:
            raise SpecError("--cpu-idle", "has no weight: leave --cpu-shares out")
    if "cpuset_mems" in options:
        found["cpuset_mems"] = values.number_list(options["cpuset_mems"], "--cpuset-mems", "memory nodes")
    for name in PER_DEVICE:
        if options.get(name):
            found[name] = tuple(_per_device(text, name) for text in options[name])
    if options.get("hugetlb"):
        found["hugetlb"] = tuple(_hugetlb(text) for text in options["hugetlb"])
    if options.get("net_prio"):
        pairs = [values.pair(text, "--net-prio") for text in options["net_prio"]]
        found["net_priorities"] = tuple(
            (name, values.integer(number, "--net-prio", 0, 2**32 - 1)) for name, number in pairs
        )
    if options.get("rdma"):
        found["rdma"] = tuple(_rdma(text) for text in options["rdma"])
    if options.get("cgroup_conf"):
        found["unified"] = tuple(_unified(text) for text in options["cgroup_conf"])
    rules = [rule(text, "--device-cgroup-rule") for text in options.get("device_cgroup_rule", ())]
    rules += [device_rule(text) for text in options.get("device", ())]
    if rules:
        found["devices"] = tuple(rules)
    return found


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _per_device(text: str, name: str) -> tuple[int, int, int]:
    pointer = _flag(name)
    path, colon, value = text.rpartition(":")
    if not colon or not path:
        raise SpecError(pointer, f'"{text}" is not DEVICE:VALUE, such as /dev/sda:1m')
    major, minor = _block_device(path, pointer)
    if name == "blkio_weight_device":
        return major, minor, values.integer(value, pointer, 10, 1000)
    if name.endswith("bps"):
        return major, minor, values.size(value, pointer)
    return major, minor, values.integer(value, pointer, 0)


def _block_device(path: str, pointer: str) -> tuple[int, int]:
    """(major, minor) of a path, or of the numbers themselves ("8:0")."""
    first, colon, second = path.partition(":")
    if colon and first.isdigit() and second.isdigit():
        return int(first), int(second)
    try:
        status = os.stat(path)
    except OSError as error:
        raise SpecError(pointer, f"{path}: {error.strerror}") from None
    if not stat.S_ISBLK(status.st_mode):
        raise SpecError(pointer, f"{path} is no block device")
    return os.major(status.st_rdev), os.minor(status.st_rdev)


def _hugetlb(text: str) -> tuple[str, int]:
    name, limit = values.pair(text, "--hugetlb")
    bytes_of_page = values.size(name, "--hugetlb")
    shown = next(
        (
            f"{bytes_of_page >> bits}{unit}B"
            for unit, bits in (("G", 30), ("M", 20), ("K", 10))
            if bytes_of_page >> bits
        ),
        "",
    )
    known = os.listdir("/sys/kernel/mm/hugepages") if os.path.isdir("/sys/kernel/mm/hugepages") else []
    if f"hugepages-{bytes_of_page >> 10}kB" not in known:
        sizes = " ".join(sorted(one.removeprefix("hugepages-") for one in known)) or "none"
        raise SpecError("--hugetlb", f"this machine has no huge pages of {name}: its sizes are {sizes}")
    return shown, values.size(limit, "--hugetlb")


def _rdma(text: str) -> tuple[str, str]:
    device, limits = values.pair(text, "--rdma")
    words = []
    for part in limits.split(","):
        kind, colon, number = part.partition(":")
        if kind not in RDMA or not colon:
            raise SpecError("--rdma", f'"{text}" is not DEVICE=handles:N,objects:N')
        words.append(f"{RDMA[kind]}={values.integer(number, '--rdma', 0, 2**31 - 1)}")
    return device, " ".join(words)


def _unified(text: str) -> tuple[str, str]:
    file, value = values.pair(text, "--cgroup-conf")
    controller, dot, rest = file.partition(".")
    plain = file.replace(".", "a").replace("_", "a").isalnum() and file.isascii()
    if not dot or not rest or not plain or (controller == "cgroup" and rest in NO_LIMITS):
        raise SpecError("--cgroup-conf", f'"{file}" is no setting of a cgroup v2, such as memory.high')
    return file, value


# --- devices -------------------------------------------------------------------------------------------


def rule(text: str, pointer: str) -> str:
    """A rule in its plain form: type (a, b, c), numbers or *, access (of r, w, m)."""
    words = text.split()
    major, colon, minor = words[1].partition(":") if len(words) == 3 else ("", "", "")
    good = (
        len(words) == 3
        and words[0] in ("a", "b", "c")
        and bool(colon)
        and all(
            one == "*" or (one.isascii() and one.isdigit() and int(one) < 1 << 32) for one in (major, minor)
        )
    )
    if not good or not words[2] or set(words[2]) - set("rwm"):
        raise SpecError(pointer, f"\"{text}\" is no rule such as 'c 10:200 rwm'")
    return f"{words[0]} {major}:{minor} {access(words[2])}"


def access(text: str) -> str:
    """The letters of r, w, m that are there, in this order."""
    return "".join(letter for letter in "rwm" if letter in text)


def split_device(text: str) -> tuple[str, str, str]:
    """(source, destination, access) of a --device SRC[:DST[:rwm]]."""
    parts = text.split(":")
    source, rest = parts[0], parts[1:]
    letters = "rwm"
    if rest and rest[-1] and not rest[-1].startswith("/"):
        letters = rest.pop()
    if len(rest) > 1 or not source.startswith("/") or not letters or set(letters) - set("rwm"):
        raise SpecError("--device", f'"{text}" is not SRC[:DST[:rwm]], such as /dev/fuse')
    return source, values.absolute(rest[0] if rest else source, "--device"), access(letters)


def device_rule(text: str) -> str:
    """The rule that a --device asks for."""
    source, _destination, letters = split_device(text)
    kind, major, minor = device_number(source)
    return f"{kind} {major}:{minor} {letters}"


def device_number(path: str) -> tuple[str, int, int]:
    """("b" or "c", major, minor) of a device node of the host.  Raises SpecError."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise SpecError("--device", f"{path}: {error.strerror}") from None
    kind = "b" if stat.S_ISBLK(status.st_mode) else "c" if stat.S_ISCHR(status.st_mode) else ""
    if not kind:
        raise SpecError("--device", f"{path} is no device node: -v shows files and directories")
    return kind, os.major(status.st_rdev), os.minor(status.st_rdev)
