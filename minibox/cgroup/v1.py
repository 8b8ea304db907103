"""Limits as files of cgroup v1: the kernel's admin-guide/cgroup-v1."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minibox.spec.model import Resources

#: the file that limits memory and swap together
SWAP_FILE = "memory.memsw.limit_in_bytes"


#: files that older kernels have under another name: the block scheduler CFQ's, where there is no BFQ
OTHER_NAMES = {
    "blkio.bfq.weight": "blkio.weight",
    "blkio.bfq.weight_device": "blkio.weight_device",
}
#: field of Resources -> why v1 has nothing for it
LACKING = {"unified": ("--cgroup-conf", "is for cgroup v2, and this host has v1")}


def settings(resources: Resources) -> dict[str, list[tuple[str, str]]]:
    """controller -> (file, value) in writing order, for what is asked."""
    found: dict[str, list[tuple[str, str]]] = {}
    memory = []
    if resources.memory is not None:
        memory.append(("memory.limit_in_bytes", str(resources.memory)))
    if resources.memory_swap is not None:  # never below the memory limit, so after it
        memory.append((SWAP_FILE, str(resources.memory_swap)))
    if resources.memory_reservation is not None:
        memory.append(("memory.soft_limit_in_bytes", str(resources.memory_reservation)))
    if resources.memory_swappiness is not None:
        memory.append(("memory.swappiness", str(resources.memory_swappiness)))
    if resources.oom_kill_disable:
        memory.append(("memory.oom_control", "1"))
    if resources.pids is not None:
        found["pids"] = [("pids.max", str(resources.pids) if resources.pids > 0 else "max")]
    cpu = [
        (file, str(value))
        for file, value in (
            ("cpu.shares", resources.cpu_shares),
            ("cpu.cfs_period_us", resources.cpu_period),
            ("cpu.cfs_quota_us", resources.cpu_quota),
            ("cpu.cfs_burst_us", resources.cpu_burst),  # not above the quota, so after it
            ("cpu.rt_period_us", resources.cpu_rt_period),
            ("cpu.rt_runtime_us", resources.cpu_rt_runtime),
            ("cpu.idle", resources.cpu_idle),
        )
        if value is not None
    ]
    cpuset = [
        (file, value)
        for file, value in (("cpuset.cpus", resources.cpuset_cpus), ("cpuset.mems", resources.cpuset_mems))
        if value
    ]
    others = {"memory": memory, "cpu": cpu, "cpuset": cpuset, **_rare(resources)}
    found.update((controller, lines) for controller, lines in others.items() if lines)
    return found


def _rare(resources: Resources) -> dict[str, list[tuple[str, str]]]:
    blkio = []
    if resources.blkio_weight is not None:
        blkio.append(("blkio.bfq.weight", str(resources.blkio_weight)))
    for file, lines in (
        ("blkio.bfq.weight_device", resources.blkio_weight_device),
        ("blkio.throttle.read_bps_device", resources.device_read_bps),
        ("blkio.throttle.write_bps_device", resources.device_write_bps),
        ("blkio.throttle.read_iops_device", resources.device_read_iops),
        ("blkio.throttle.write_iops_device", resources.device_write_iops),
    ):
        blkio += [(file, f"{major}:{minor} {value}") for major, minor, value in lines]
    classid = resources.net_classid
    return {
        "blkio": blkio,
        "hugetlb": [(f"hugetlb.{size}.limit_in_bytes", str(limit)) for size, limit in resources.hugetlb],
        "net_cls": [] if classid is None else [("net_cls.classid", str(classid))],
        "net_prio": [("net_prio.ifpriomap", f"{name} {value}") for name, value in resources.net_priorities],
        "rdma": [("rdma.max", f"{device} {limits}") for device, limits in resources.rdma],
    }
