"""Limits as files of cgroup v2: the kernel's admin-guide/cgroup-v2."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minibox.spec.model import Resources

#: the file that limits swap alone
SWAP_FILE = "memory.swap.max"


def weight(shares: int) -> int:
    """cpu.weight (1 to 10000) of v1 shares (2 to 262144): the linear map that runc has used since 1.0."""
    return 1 + (shares - 2) * 9999 // 262142


def settings(resources: Resources) -> dict[str, list[tuple[str, str]]]:
    """controller -> (file, value) in writing order, for what is asked."""
    found: dict[str, list[tuple[str, str]]] = {}
    if resources.memory is not None:
        found["memory"] = [("memory.max", str(resources.memory))]
        if resources.memory_swap is not None:
            swap = "max" if resources.memory_swap < 0 else str(resources.memory_swap - resources.memory)
            found["memory"].append((SWAP_FILE, swap))
    if resources.pids is not None:
        found["pids"] = [("pids.max", str(resources.pids) if resources.pids > 0 else "max")]
    cpu = []
    if resources.cpu_shares is not None:
        cpu.append(("cpu.weight", str(weight(resources.cpu_shares))))
    if resources.cpu_quota is not None:
        cpu.append(("cpu.max", f"{resources.cpu_quota} {resources.cpu_period or 100_000}"))
    if cpu:
        found["cpu"] = cpu
    if resources.cpuset_cpus:
        found["cpuset"] = [("cpuset.cpus", resources.cpuset_cpus)]
    return found
