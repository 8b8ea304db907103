"""Limits as files of cgroup v1: the kernel's admin-guide/cgroup-v1."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minibox.spec.model import Resources

#: the file that limits memory and swap together
SWAP_FILE = "memory.memsw.limit_in_bytes"


def settings(resources: Resources) -> dict[str, list[tuple[str, str]]]:
    """controller -> (file, value) in writing order, for what is asked."""
    found: dict[str, list[tuple[str, str]]] = {}
    if resources.memory is not None:
        found["memory"] = [("memory.limit_in_bytes", str(resources.memory))]
        if resources.memory_swap is not None:  # never below the memory limit, so after it
            found["memory"].append((SWAP_FILE, str(resources.memory_swap)))
    if resources.pids is not None:
        found["pids"] = [("pids.max", str(resources.pids) if resources.pids > 0 else "max")]
    cpu = []
    if resources.cpu_shares is not None:
        cpu.append(("cpu.shares", str(resources.cpu_shares)))
    if resources.cpu_period is not None:
        cpu.append(("cpu.cfs_period_us", str(resources.cpu_period)))
    if resources.cpu_quota is not None:
        cpu.append(("cpu.cfs_quota_us", str(resources.cpu_quota)))
    if cpu:
        found["cpu"] = cpu
    if resources.cpuset_cpus:
        found["cpuset"] = [("cpuset.cpus", resources.cpuset_cpus)]
    return found
