"""What a container is when nobody says otherwise: as strict as Docker's, or stricter, in one place."""

from __future__ import annotations

from minibox.kernel import caps
from minibox.spec.model import Capabilities, Mount, Rlimit

ENV = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",)
COMMAND = ("sh",)
PIDS_LIMIT = 4096
NEW_NAMESPACES = ("user", "pid", "net", "mount", "uts", "ipc", "cgroup")

#: the fourteen that Docker leaves to a container's root, each harmless on its own inside the namespaces
CAPABILITIES = caps.mask(
    (
        "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP",
        "SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
    )
)  # fmt: skip

#: no core files: a core_pattern of the host would be run, or written, outside the container
RLIMITS = (Rlimit(kind="CORE", soft=0, hard=0),)

#: the device nodes bound from the host, each a source of bytes or a sink
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")

#: what a group's processes may do with device nodes, wherever these lie, in the kernel's form for v1 (type,
#: numbers, read write mknod): Docker's list (moby, daemon/pkg/oci/defaults.go), without /dev/fuse
DEVICE_RULES = (
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",  # null
    "c 1:5 rwm",  # zero
    "c 1:7 rwm",  # full
    "c 1:8 rwm",  # random
    "c 1:9 rwm",  # urandom
    "c 5:0 rwm",  # tty
    "c 5:1 rwm",  # console
    "c 5:2 rwm",  # ptmx
    "c 136:* rwm",  # pts
)

#: what tells about, or changes, the whole machine; a file reads empty, a directory is empty.  A path
#: that this kernel does not have is passed over.
MASKED_PATHS = (
    "/proc/acpi",  # power buttons and batteries
    "/proc/asound",  # sound cards
    "/proc/interrupts",  # timing of the host's devices: a side channel
    "/proc/kallsyms",  # addresses of the kernel
    "/proc/kcore",  # the machine's memory
    "/proc/keys",  # keys of the host's users
    "/proc/kmsg",  # the kernel's log
    "/proc/latency_stats",
    "/proc/sched_debug",  # every process of the host
    "/proc/scsi",  # commands to disks
    "/proc/timer_list",  # kernel addresses
    "/proc/timer_stats",
    "/proc/key-users",
    "/proc/vmallocinfo",  # kernel addresses
    "/proc/slabinfo",
    "/proc/kpagecgroup",
    "/proc/kpagecount",
    "/proc/kpageflags",
    "/sys/devices/virtual/powercap",  # power use: a side channel (CVE-2020-8694)
    "/sys/firmware",
    "/sys/class/powercap",
    "/sys/kernel/debug",
    "/sys/kernel/tracing",
    "/sys/kernel/security",
)
#: one entry a processor: thermal throttling tells what runs beside (moby's list, since 2025)
MASKED_PER_CPU = "/sys/devices/system/cpu/cpu{}/thermal_throttle"

READONLY_PATHS = (
    "/proc/bus",
    "/proc/driver",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
)


def masked_paths(processors: int) -> tuple[str, ...]:
    """The default masks for a machine of so many processors."""
    return MASKED_PATHS + tuple(MASKED_PER_CPU.format(number) for number in range(processors))


def capabilities(bits: int, ambient: int = 0) -> Capabilities:
    """The five sets for a mask: inheritable empty (CVE-2022-29162), ambient only where asked."""
    return Capabilities(bounding=bits, permitted=bits, effective=bits, inheritable=ambient, ambient=ambient)


def mounts(*, own_network: bool, own_ipc: bool, privileged: bool) -> tuple[Mount, ...]:
    """The file systems every container gets, in mounting order.

    sysfs belongs to the network namespace and mqueue to the IPC namespace: with the host's, a user
    namespace may not mount new ones, so the host's own are bound.
    """
    sys_flags: tuple[str, ...] = ("nosuid", "nodev", "noexec")
    if not privileged:
        sys_flags += ("ro",)
    sysfs = Mount(destination="/sys", kind="sysfs", source="sysfs", attributes=sys_flags)
    if not own_network:
        sysfs = Mount(destination="/sys", kind="bind", source="/sys", recursive=sys_flags)
    mqueue = Mount(
        destination="/dev/mqueue",
        kind="mqueue",
        source="mqueue",
        attributes=("nosuid", "nodev", "noexec"),
    )
    shm = Mount(
        destination="/dev/shm",
        kind="tmpfs",
        source="shm",
        attributes=("nosuid", "nodev", "noexec"),
        data=("mode=1777", "size=67108864", "nr_inodes=65536"),
    )
    if not own_ipc:
        mqueue = Mount(destination="/dev/mqueue", kind="bind", source="/dev/mqueue")
        shm = Mount(destination="/dev/shm", kind="bind", source="/dev/shm")
    return (
        Mount(destination="/proc", kind="proc", source="proc", attributes=("nosuid", "nodev", "noexec")),
        sysfs,
        Mount(
            destination="/dev",
            kind="tmpfs",
            source="tmpfs",
            # The devices are mounts of their own; root without a user namespace could make others.
            attributes=("nosuid", "noexec") + (() if privileged else ("nodev",)),
            data=("mode=755", "size=65536k", "nr_inodes=4096"),
        ),
        Mount(
            destination="/dev/pts",
            kind="devpts",
            source="devpts",
            attributes=("nosuid", "noexec"),
            data=("newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
        ),
        shm,
        mqueue,
        Mount(
            destination="/sys/fs/cgroup",
            kind="cgroup",
            source="cgroup",
            attributes=("nosuid", "nodev", "noexec") + (() if privileged else ("ro",)),
        ),
    )
