"""Limits as files of cgroup v2: the kernel's admin-guide/cgroup-v2."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minibox.spec.model import Resources

#: the file that limits swap alone
SWAP_FILE = "memory.swap.max"


#: files that a kernel has under another name, and their values there: without the scheduler BFQ there is
#: the weight of iocost
OTHER_NAMES = {"io.bfq.weight": "io.weight"}
#: field of Resources -> why v2 has nothing for it.  crun refuses them too; runc passes over most in silence
LACKING = {
    "memory_swappiness": (
        "--memory-swappiness",
        "the kernel has it for cgroup v1 only, and this host has v2",
    ),
    "oom_kill_disable": ("--oom-kill-disable", "the kernel has it for cgroup v1 only, and this host has v2"),
    "cpu_rt_runtime": ("--cpu-rt-runtime", "the kernel has it for cgroup v1 only, and this host has v2"),
    "cpu_rt_period": ("--cpu-rt-period", "the kernel has it for cgroup v1 only, and this host has v2"),
    "net_classid": (
        "--net-classid",
        "the kernel has it for cgroup v1 only: on v2 match the cgroup (nft, tc)",
    ),
    "net_priorities": (
        "--net-prio",
        "the kernel has it for cgroup v1 only: on v2 match the cgroup (nft, tc)",
    ),
}


def weight(shares: int) -> int:
    """cpu.weight (1 to 10000) of v1 shares (2 to 262144), so that the middles, 100 and 1024, agree.

    runc since 1.3.2 (opencontainers/cgroups, utils.go, ConvertCPUSharesToCgroupV2Value) and crun since
    1.23 (src/libcrun/cgroup-resources.c).  Before, both had a linear map, in which 1024 was 39.
    """
    if shares <= 2:
        return 1
    if shares >= 262144:
        return 10000
    import math

    power = math.log2(shares)
    return math.ceil(10 ** ((power * power + 125 * power) / 612 - 7 / 34))


def io_weight(blkio: int) -> int:
    """io.weight (1 to 10000) of a v1 weight (10 to 1000); io.bfq.weight takes the same numbers as v1.

    runc (opencontainers/cgroups, utils.go, ConvertBlkIOToIOWeightValue) and crun (write_blkio_v2_resources).
    """
    return 1 + (blkio - 10) * 9999 // 990


def other_value(file: str, value: str) -> str:
    """What is written to the file of OTHER_NAMES when the first is not there."""
    if file != "io.bfq.weight":
        return value
    device, _space, number = value.rpartition(" ")
    return f"{device} {io_weight(int(number))}".strip()


def settings(resources: Resources) -> dict[str, list[tuple[str, str]]]:
    """controller -> (file, value) in writing order, for what is asked."""
    found: dict[str, list[tuple[str, str]]] = {}
    memory = []
    if resources.memory is not None:
        memory.append(("memory.max", "max" if resources.memory < 0 else str(resources.memory)))
    if resources.memory is not None and resources.memory_swap is not None:
        # Swap alone is the difference: runc (ConvertMemorySwapToCgroupV2Value) and crun.
        unlimited = resources.memory_swap < 0
        memory.append((SWAP_FILE, "max" if unlimited else str(resources.memory_swap - resources.memory)))
    if resources.memory_reservation is not None:  # runc and crun: memory.low
        memory.append(("memory.low", str(resources.memory_reservation)))
    if resources.pids is not None:
        found["pids"] = [("pids.max", str(resources.pids) if resources.pids > 0 else "max")]
    cpu = []
    if resources.cpu_shares is not None:
        cpu.append(("cpu.weight", str(weight(resources.cpu_shares))))
    if resources.cpu_quota is not None or resources.cpu_period is not None:
        quota = resources.cpu_quota
        cpu.append(
            ("cpu.max", f"{'max' if quota in (None, -1) else quota} {resources.cpu_period or 100_000}")
        )
    if resources.cpu_burst is not None:
        cpu.append(("cpu.max.burst", str(resources.cpu_burst)))
    if resources.cpu_idle is not None:
        cpu.append(("cpu.idle", str(resources.cpu_idle)))
    cpuset = [
        (file, value)
        for file, value in (("cpuset.cpus", resources.cpuset_cpus), ("cpuset.mems", resources.cpuset_mems))
        if value
    ]
    others = {"memory": memory, "cpu": cpu, "cpuset": cpuset, **_rare(resources)}
    found.update((controller, lines) for controller, lines in others.items() if lines)
    for file, value in resources.unified:  # last, so that it has the last word
        found.setdefault(file.partition(".")[0], []).append((file, value))
    return found


def _rare(resources: Resources) -> dict[str, list[tuple[str, str]]]:
    io = []
    if resources.blkio_weight is not None:
        io.append(("io.bfq.weight", str(resources.blkio_weight)))
    weights = resources.blkio_weight_device
    io += [("io.bfq.weight", f"{major}:{minor} {value}") for major, minor, value in weights]
    for key, lines in (
        ("rbps", resources.device_read_bps),
        ("wbps", resources.device_write_bps),
        ("riops", resources.device_read_iops),
        ("wiops", resources.device_write_iops),
    ):
        io += [("io.max", f"{major}:{minor} {key}={value or 'max'}") for major, minor, value in lines]
    return {
        "io": io,
        "hugetlb": [(f"hugetlb.{size}.max", str(limit)) for size, limit in resources.hugetlb],
        "rdma": [("rdma.max", f"{device} {limits}") for device, limits in resources.rdma],
    }
