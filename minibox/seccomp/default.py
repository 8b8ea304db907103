"""minibox's own seccomp profile: what a container may call, by purpose, each purpose with its reason.

Facts. A container shares the kernel with its host, and most ways out of one begin with a call that its
programs never make. A filter sees numbers and registers, never what a pointer points to, so it can
close a call or an operation of it, not a path or a name.

What this means for us. The profile is an allow-list: every call of the tables in `syscalls` stands in
exactly one purpose below, allowed, allowed with a capability, or refused. Refused means EPERM, which
programs take for "not here"; ENOSYS where libc or a tool then falls back to an older call. A number
that is newer than all of these answers ENOSYS too: see `compile`.

No other ABI of the machine is allowed. On x86_64 the i386 entry brings socketcall(2) and ipc(2), whose
arguments lie in memory where no filter sees them, and x32 gives every call a second number. A 32-bit
program is killed (it could not even exit otherwise); an x32 number answers ENOSYS, as Linux does when
it is built or booted without x32.
"""

from __future__ import annotations

from copy import deepcopy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_LOW_32 = 0xFFFFFFFF

# <asm-generic/ioctls.h>
TIOCSTI = 0x5412
TIOCLINUX = 0x541C

# <linux/sched.h>: NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET. CLONE_NEWTIME (0x80) lies in
# the exit signal's bits of clone(2), which cannot make a time namespace.
CLONE_NAMESPACES = 0x7E020000

# <sys/socket.h>
AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET = 1, 2, 10, 16, 17

# personality(2): PER_LINUX, PER_LINUX32, both with UNAME26, and "only tell me".
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)


def _group(
    note: str,
    names: str,
    *,
    action: str = "SCMP_ACT_ALLOW",
    errno: int | None = None,
    args: Sequence[dict[str, Any]] = (),
    caps: Sequence[str] = (),
    without: Sequence[str] = (),
    arches: Sequence[str] = (),
    not_arches: Sequence[str] = (),
    kernel: str = "",
) -> dict[str, Any]:
    """One entry of `syscalls` in Docker's format; *without* names the capabilities that switch it off."""
    excludes = {"caps": list(without), "arches": list(not_arches)}
    includes = {"caps": list(caps), "arches": list(arches), "minKernel": kernel}
    group: dict[str, Any] = {"names": names.split(), "action": action, "note": note}
    if errno is not None:
        group["errnoRet"] = errno
    if args:
        group["args"] = list(args)
    if any(includes.values()):
        group["includes"] = {key: value for key, value in includes.items() if value}
    if any(excludes.values()):
        group["excludes"] = {key: value for key, value in excludes.items() if value}
    return group


def _refuse(note: str, names: str, **conditions: Any) -> dict[str, Any]:
    return _group(note, names, action="SCMP_ACT_ERRNO", errno=1, **conditions)


def _absent(note: str, names: str, **conditions: Any) -> dict[str, Any]:
    return _group(note, names, action="SCMP_ACT_ERRNO", errno=38, **conditions)


def _low(index: int, value: int) -> dict[str, Any]:
    """The condition that the low half of an argument is *value*.

    For parameters that are 32 bits wide in the kernel: it ignores the upper half of the register, so a
    comparison of all 64 bits would miss 0x1_0000_5412, which is TIOCSTI all the same.
    """
    return {"index": index, "op": "SCMP_CMP_MASKED_EQ", "value": _LOW_32, "valueTwo": value}


_ALLOWED = [
    _group(
        "Open, read, write and close files, also by vectors, at offsets and without copying.",
        """open openat openat2 creat close close_range read write readv writev pread64 pwrite64
        preadv pwritev preadv2 pwritev2 lseek sendfile copy_file_range splice tee
        vmsplice readahead fadvise64 fallocate truncate ftruncate sync syncfs fsync
        fdatasync sync_file_range""",
    ),
    _group(
        "Descriptors, pipes and record locks.",
        "dup dup2 dup3 fcntl flock pipe pipe2",
    ),
    _group(
        "Names and directories. mknod stays: FIFOs are made by it, and device nodes are refused by the "
        "user namespace and by the devices cgroup.",
        """access faccessat faccessat2 chdir fchdir getcwd getdents getdents64 mkdir mkdirat rmdir
        mknod mknodat link linkat symlink symlinkat readlink readlinkat rename renameat
        renameat2 unlink unlinkat umask""",
    ),
    _group(
        "What is known about a file or a mount. name_to_handle_at only makes handles (systemd finds "
        "mount points by it); using one is refused below.",
        """stat fstat lstat newfstatat statx statfs fstatfs statmount listmount name_to_handle_at
        cachestat chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat utime
        utimes futimesat utimensat""",
    ),
    _group(
        "Extended attributes: ACLs and file capabilities, which package managers set.",
        """getxattr lgetxattr fgetxattr getxattrat setxattr lsetxattr fsetxattr setxattrat
        listxattr llistxattr flistxattr listxattrat removexattr lremovexattr fremovexattr removexattrat""",
    ),
    _group(
        "Wait for descriptors, files, signals and timers. fanotify_mark does nothing without "
        "fanotify_init.",
        """poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait
        epoll_pwait2 eventfd eventfd2 signalfd signalfd4 timerfd_create timerfd_settime
        timerfd_gettime inotify_init inotify_init1 inotify_add_watch inotify_rm_watch
        fanotify_mark""",
    ),
    _group(
        "POSIX asynchronous I/O, the old interface: databases and web servers use it, and it is a small "
        "part of what io_uring is.",
        "io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents",
    ),
    _group(
        "Memory of the process itself. memfd_secret hides pages from the kernel, not from us; "
        "map_shadow_stack is how libc arms the processor's return protection; mseal only takes rights "
        "away.",
        """brk mmap munmap mremap mprotect msync madvise mincore mlock mlock2 mlockall munlock
        munlockall remap_file_pages memfd_create memfd_secret pkey_alloc pkey_free
        pkey_mprotect map_shadow_stack mseal membarrier""",
    ),
    _group(
        "Start programs and end them. clone stands below, for its flags.",
        "fork vfork execve execveat exit exit_group wait4 waitid",
    ),
    _group(
        "Threads: what glibc and musl need to start one, to lock and to cancel.",
        """set_tid_address set_robust_list get_robust_list futex futex_waitv futex_wake futex_wait
        futex_requeue rseq gettid tkill tgkill set_thread_area get_thread_area""",
    ),
    _group(
        "Signals, to whom the PID namespace lets a process see.",
        """kill rt_sigaction rt_sigprocmask rt_sigpending rt_sigtimedwait rt_sigqueueinfo
        rt_tgsigqueueinfo rt_sigsuspend rt_sigreturn sigaltstack pause restart_syscall
        pidfd_open pidfd_send_signal process_mrelease""",
    ),
    _group(
        "Who am I, with whom, and where: ids, groups, sessions. Changing ids needs capabilities, within "
        "the user namespace.",
        """getpid getppid getuid geteuid getgid getegid getresuid getresgid getgroups getpgid
        getpgrp getsid setuid setgid setreuid setregid setresuid setresgid setfsuid
        setfsgid setgroups setpgid setsid capget capset""",
    ),
    _group(
        "The machine and the limits: what may be asked, and what a process may set for itself.",
        """uname sysinfo getcpu getrandom getrlimit setrlimit prlimit64 getrusage times prctl""",
    ),
    _group(
        "Scheduling, within the rights and the cgroup of the process.",
        """sched_yield sched_getaffinity sched_setaffinity sched_getattr sched_setattr sched_getparam
        sched_setparam sched_getscheduler sched_setscheduler sched_get_priority_max
        sched_get_priority_min sched_rr_get_interval getpriority setpriority ioprio_get ioprio_set""",
    ),
    _group(
        "Clocks and timers. adjtimex and clock_adjtime read the clock's state for everyone and set it "
        "only with CAP_SYS_TIME.",
        """time gettimeofday clock_gettime clock_getres clock_nanosleep nanosleep alarm getitimer
        setitimer timer_create timer_settime timer_gettime timer_getoverrun timer_delete
        adjtimex clock_adjtime""",
    ),
    _group(
        "Sockets after they are made. socket and socketpair stand below, for the family.",
        """bind listen accept accept4 connect getsockname getpeername getsockopt setsockopt shutdown
        sendto sendmsg sendmmsg recvfrom recvmsg recvmmsg""",
    ),
    _group(
        "System V and POSIX queues, semaphores and shared memory: the IPC namespace has its own.",
        """shmget shmat shmdt shmctl semget semop semtimedop semctl msgget msgsnd msgrcv msgctl
        mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr""",
    ),
    _group(
        "Sandboxes of their own: these only take rights away.",
        "seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self",
    ),
    _group(
        "The thread pointer of x86_64: every program sets it as it starts.",
        "arch_prctl",
        arches=("amd64",),
    ),
    _group(
        "The kernel itself sends a process here when somebody on the host traces it (uretprobes, Linux "
        "6.11 on); refused, the traced process would die.",
        "uretprobe",
        arches=("amd64",),
    ),
    _group(
        "Debuggers and crash reporters. Before Linux 4.8 ptrace could step round a filter (seccomp(2)), "
        "so there it takes CAP_SYS_PTRACE.",
        "ptrace process_vm_readv process_vm_writev",
        kernel="4.8",
    ),
    _group(
        "The same calls under the names that 32-bit machines have for them (wide ids, offsets and "
        "times), for those where they are the native ones.",
        """_llseek _newselect chown32 fchown32 lchown32 fadvise64_64 fcntl64 fstat64 fstatat64
        stat64 lstat64 statfs64 fstatfs64 truncate64 ftruncate64 sendfile64 mmap2
        getuid32 geteuid32 getgid32 getegid32 getgroups32 getresuid32 getresgid32
        setuid32 setgid32 setreuid32 setregid32 setresuid32 setresgid32 setfsuid32
        setfsgid32 setgroups32 ugetrlimit send recv waitpid sigprocmask sigreturn
        clock_adjtime64 clock_getres_time64 clock_gettime64 clock_nanosleep_time64
        futex_time64 io_pgetevents_time64 mq_timedreceive_time64 mq_timedsend_time64
        ppoll_time64 pselect6_time64 recvmmsg_time64 rt_sigtimedwait_time64
        sched_rr_get_interval_time64 semtimedop_time64 timer_gettime64 timer_settime64
        timerfd_gettime64 timerfd_settime64 utimensat_time64""",
    ),
    _group(
        "ARM's own helpers for threads and self-modifying code, and its order of wide arguments.",
        "breakpoint cacheflush set_tls arm_fadvise64_64 arm_sync_file_range sync_file_range2",
        arches=("arm",),
    ),
    _group("RISC-V: flush code that was just written, and ask what the processor can do.",
           "riscv_flush_icache riscv_hwprobe", arches=("riscv64",)),
]  # fmt: skip

_BY_ARGUMENT = [
    _refuse(
        "TIOCSTI types into the terminal as if the user had (CVE-2017-5226; by its upper half, "
        "CVE-2019-10063).",
        "ioctl",
        args=[_low(1, TIOCSTI)],
    ),
    _refuse(
        "TIOCLINUX does so on a console, by selecting and pasting text (CVE-2023-28100).",
        "ioctl",
        args=[_low(1, TIOCLINUX)],
    ),
    _group("Every other device request: the devices that can be opened are the limit.", "ioctl"),
    *(
        _group(note, "socket", args=[_low(0, family)])
        for family, note in (
            (AF_UNIX, "Sockets between local processes."),
            (AF_INET, "IPv4."),
            (AF_INET6, "IPv6."),
            (AF_NETLINK, "Ask the kernel about links and addresses, as getifaddrs(3) does."),
        )
    ),
    _group(
        "Raw frames for those who manage the network: the code behind it has a history (CVE-2017-7308, "
        "CVE-2020-14386), and ping needs none of it.",
        "socket",
        args=[_low(0, AF_PACKET)],
        caps=("CAP_NET_ADMIN", "CAP_NET_RAW"),
    ),
    _group(
        "Pairs are local: other families would load their module only to say no.",
        "socketpair",
        args=[_low(0, AF_UNIX)],
    ),
    *(
        _group(
            "Harmless execution domains; others switch off protections, such as READ_IMPLIES_EXEC.",
            "personality",
            args=[{"index": 0, "op": "SCMP_CMP_EQ", "value": value}],
        )
        for value in _PERSONALITIES
    ),
    _group(
        "Processes and threads, with no new namespace: a nested user namespace gives back every "
        "capability in it, and with them most of the kernel's code (CVE-2022-0185).",
        "clone",
        args=[{"index": 0, "op": "SCMP_CMP_MASKED_EQ", "value": CLONE_NAMESPACES, "valueTwo": 0}],
        without=("CAP_SYS_ADMIN",),
        not_arches=("s390x",),
    ),
    _group(
        'The same, where the flags are the second argument: clone(2), "C library/kernel differences".',
        "clone",
        args=[{"index": 1, "op": "SCMP_CMP_MASKED_EQ", "value": CLONE_NAMESPACES, "valueTwo": 0}],
        without=("CAP_SYS_ADMIN",),
        arches=("s390x",),
    ),
    _absent(
        "Its flags lie in memory, where a filter cannot see them; libc then takes clone.",
        "clone3",
        without=("CAP_SYS_ADMIN",),
    ),
]

_BY_CAPABILITY = [
    _group(
        "Mount, make and enter namespaces, name the machine: a container that runs containers.",
        """clone clone3 unshare setns mount umount umount2 open_tree move_mount mount_setattr
        fsopen fsconfig fsmount fspick sethostname setdomainname quotactl quotactl_fd
        fanotify_init lsm_get_self_attr lsm_set_self_attr lsm_list_modules""",
        caps=("CAP_SYS_ADMIN",),
    ),
    _group("Another root directory.", "chroot", caps=("CAP_SYS_CHROOT",)),
    _group(
        "Look into other processes, which CAP_SYS_PTRACE is about.",
        "ptrace process_vm_readv process_vm_writev kcmp pidfd_getfd process_madvise",
        caps=("CAP_SYS_PTRACE",),
    ),
    _group(
        "Where memory lies on a machine with several nodes: databases and Java tune it; it can slow "
        "down others.",
        "get_mempolicy set_mempolicy mbind set_mempolicy_home_node",
        caps=("CAP_SYS_NICE",),
    ),
    _group("The kernel's log.", "syslog", caps=("CAP_SYSLOG",)),
    _group("Programs that run in the kernel.", "bpf", caps=("CAP_BPF",)),
    _group("Performance counters.", "perf_event_open", caps=("CAP_PERFMON",)),
    _group(
        "Set the clock, which is the host's.",
        "settimeofday clock_settime stime clock_settime64",
        caps=("CAP_SYS_TIME",),
    ),
    _group("Reboot: in a PID namespace it ends that.", "reboot", caps=("CAP_SYS_BOOT",)),
    _group("Hang up the terminal.", "vhangup", caps=("CAP_SYS_TTY_CONFIG",)),
    _group("Process accounting.", "acct", caps=("CAP_SYS_PACCT",)),
    _group("Kernel modules.", "init_module finit_module delete_module", caps=("CAP_SYS_MODULE",)),
    _group("I/O ports.", "ioperm iopl", caps=("CAP_SYS_RAWIO",), arches=("amd64", "386")),
]

_REFUSED = [
    _refuse(
        "io_uring does what other calls do without making them, so that no filter sees it, and six in "
        "ten exploits of Google's kernel bounty of 2022 used it. EPERM is what Linux says when it is "
        "switched off by sysctl.",
        "io_uring_setup io_uring_enter io_uring_register",
    ),
    _refuse(
        "Keys belong to the host's users and to no namespace (CVE-2014-9529, CVE-2016-0728).",
        "add_key request_key keyctl",
    ),
    _refuse(
        "Stops the kernel in the middle of a copy for as long as one likes, which makes races easy to "
        "win.",
        "userfaultfd",
    ),
    _refuse(
        "Opens a file by its number on the file system, whatever the mount namespace hides (shocker.c, "
        "2014).",
        "open_by_handle_at",
    ),
    _refuse("Another kernel in place of this one.", "kexec_load kexec_file_load"),
    _refuse("Another root for every process of the mount namespace; chroot serves programs.", "pivot_root"),
    _refuse("Swap is the host's.", "swapon swapoff"),
    _refuse("Moves the pages of processes between nodes.", "migrate_pages move_pages"),
    _refuse("Segment descriptors serve 16-bit and 32-bit code, which is refused anyway (CVE-2015-5157).",
            "modify_ldt", arches=("amd64", "386")),
    _refuse("Only the kernel calls this, and passes it by every filter (Linux 6.18).", "uprobe"),
    _refuse("Superseded by statfs and /proc.", "ustat sysfs"),
    _refuse(
        "One number for many calls, with the arguments in memory: it would get round the rules for "
        "socket. 32-bit libraries of the last ten years have the calls themselves.",
        "socketcall ipc",
    ),
    _absent(
        "Linux no longer has these, or never had: the answer is the kernel's own.",
        """_sysctl afs_syscall create_module epoll_ctl_old epoll_wait_old get_kernel_syms getpmsg
        lookup_dcookie nfsservctl putpmsg query_module security tuxcall uselib vserver""",
    ),
    _absent(
        "New, and with an older way to the same end to which their callers turn (ioctl, mount_setattr).",
        "file_getattr file_setattr open_tree_attr",
    ),
]  # fmt: skip

DIFFERENCES = (
    ("ioctl", "", "TIOCSTI and TIOCLINUX put input into a terminal that may be the user's"),
    (
        "socket",
        "",
        "families are listed; AF_PACKET takes CAP_NET_ADMIN too; upper halves count for nothing",
    ),
    ("socketpair", "", "only AF_UNIX has pairs worth having; other families would load a module"),
    ("modify_ldt", "", "serves 16-bit and 32-bit code, which the filter refuses"),
    ("epoll_ctl_old epoll_wait_old", "", "never existed: ENOSYS, as from the kernel"),
    (
        "open_by_handle_at",
        "CAP_DAC_READ_SEARCH",
        "the capability is to read any file in the root, not outside",
    ),
    ("bpf", "CAP_SYS_ADMIN", "CAP_BPF is the capability for it since Linux 5.8"),
    ("perf_event_open", "CAP_SYS_ADMIN", "CAP_PERFMON is the capability for it since Linux 5.8"),
    ("syslog", "CAP_SYS_ADMIN", "CAP_SYSLOG is the capability for it since Linux 2.6.37"),
    ("lookup_dcookie", "CAP_SYS_ADMIN", "Linux has it no longer: ENOSYS, as from the kernel"),
)
"""Where this profile refuses what Docker's default allows: names, the capability with which Docker does
(empty: always), and why. On top of these no ABI but the native one is allowed."""


def document() -> dict[str, Any]:
    """Return the profile in Docker's format, with a `note` for each entry; the caller's to change."""
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "syscalls": deepcopy([*_ALLOWED, *_BY_ARGUMENT, *_BY_CAPABILITY, *_REFUSED]),
    }
