/* The system calls that Python's standard library lacks.
 *
 * Called by number, not through new wrappers of glibc, so that one build serves old and new C
 * libraries.  Syscalls only: no policy, no paths, no state.  A function returns what the kernel
 * returned, or -errno.
 */
#include <Python.h>

#include <errno.h>
#include <limits.h>
#include <linux/capability.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

/* From 5.1 on, a new call has the same number on every architecture. */
#define NR_open_tree 428
#define NR_move_mount 429
#define NR_fsopen 430
#define NR_fsconfig 431
#define NR_fsmount 432
#define NR_pidfd_open 434
#define NR_clone3 435
#define NR_close_range 436
#define NR_openat2 437
#define NR_mount_setattr 442
#define NR_pidfd_send_signal 424

#define RESULT(call)                        \
    do {                                    \
        long result_ = (call);              \
        return result_ < 0 ? -errno : (int)result_; \
    } while (0)

struct clone3_args {
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid,
        set_tid_size, cgroup;
};

/* fork(2) for Python, with namespaces: 0 in the child, the pid in the parent.
 *
 * The interpreter's own fork hooks run around the call, as they do in os.fork: without them the
 * child of a process that has other threads waits for ever for locks that those threads held.
 */
int mb_clone3(uint64_t flags, int cgroup_fd, int *pidfd)
{
    struct clone3_args args = {.flags = flags, .exit_signal = SIGCHLD, .pidfd = (uintptr_t)pidfd};
    if (flags & CLONE_PARENT)
        args.exit_signal = 0; /* the kernel gives the sibling the caller's own exit signal */
    if (cgroup_fd >= 0)
        args.cgroup = cgroup_fd;
    PyGILState_STATE gil = PyGILState_Ensure();
    PyOS_BeforeFork();
    long pid = syscall(NR_clone3, &args, sizeof args);
    int error = errno;
    if (pid == 0)
        PyOS_AfterFork_Child();
    else
        PyOS_AfterFork_Parent();
    PyGILState_Release(gil);
    return pid < 0 ? -error : (int)pid;
}

int mb_unshare(int flags) { RESULT(syscall(SYS_unshare, flags)); }

int mb_setns(int fd, int flags) { RESULT(syscall(SYS_setns, fd, flags)); }

int mb_execveat(int fd, const char *path, char *const argv[], char *const envp[], int flags)
{
    RESULT(syscall(SYS_execveat, fd, path, argv, envp, flags));
}

int mb_close_range(unsigned int first, unsigned int last, unsigned int flags)
{
    RESULT(syscall(NR_close_range, first, last, flags));
}

int mb_pidfd_open(int pid, unsigned int flags) { RESULT(syscall(NR_pidfd_open, pid, flags)); }

int mb_pidfd_send_signal(int pidfd, int signal)
{
    RESULT(syscall(NR_pidfd_send_signal, pidfd, signal, NULL, 0));
}

/* Every signal at its default, none blocked: what a program expects to begin with. */
int mb_reset_signals(void)
{
    struct sigaction action = {.sa_handler = SIG_DFL};
    for (int number = 1; number < NSIG; number++)
        sigaction(number, &action, NULL); /* fails for SIGKILL, SIGSTOP and libc's own two */
    sigset_t none;
    sigemptyset(&none);
    RESULT(sigprocmask(SIG_SETMASK, &none, NULL));
}

int mb_memfd_create(const char *name, unsigned int flags)
{
    RESULT(syscall(SYS_memfd_create, name, flags));
}

int mb_openat2(int dirfd, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve)
{
    struct { uint64_t flags, mode, resolve; } how = {flags, mode, resolve};
    RESULT(syscall(NR_openat2, dirfd, path, &how, sizeof how));
}

int mb_open_tree(int dirfd, const char *path, unsigned int flags)
{
    RESULT(syscall(NR_open_tree, dirfd, path, flags));
}

int mb_move_mount(int from_fd, const char *from, int to_fd, const char *to, unsigned int flags)
{
    RESULT(syscall(NR_move_mount, from_fd, from, to_fd, to, flags));
}

int mb_fsopen(const char *type, unsigned int flags) { RESULT(syscall(NR_fsopen, type, flags)); }

int mb_fsconfig(int fd, unsigned int command, const char *key, const char *value, int aux)
{
    RESULT(syscall(NR_fsconfig, fd, command, key, value, aux));
}

int mb_fsmount(int fd, unsigned int flags, unsigned int attributes)
{
    RESULT(syscall(NR_fsmount, fd, flags, attributes));
}

int mb_mount_setattr(int fd, const char *path, unsigned int flags, uint64_t set, uint64_t clear,
                     uint64_t propagation, int userns_fd)
{
    struct { uint64_t set, clear, propagation, userns_fd; } attributes = {
        set, clear, propagation, userns_fd < 0 ? 0 : (uint64_t)userns_fd};
    RESULT(syscall(NR_mount_setattr, fd, path, flags, &attributes, sizeof attributes));
}

int mb_pivot_root(const char *new_root, const char *put_old)
{
    RESULT(syscall(SYS_pivot_root, new_root, put_old));
}

int mb_umount2(const char *path, int flags) { RESULT(umount2(path, flags)); }

int64_t mb_fstatfs_type(int fd)
{
    struct statfs result;
    return fstatfs(fd, &result) < 0 ? -errno : (int64_t)(uint32_t)result.f_type;
}

int mb_capget(uint64_t *effective, uint64_t *permitted, uint64_t *inheritable)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    if (syscall(SYS_capget, &header, data) < 0)
        return -errno;
    *effective = data[0].effective | (uint64_t)data[1].effective << 32;
    *permitted = data[0].permitted | (uint64_t)data[1].permitted << 32;
    *inheritable = data[0].inheritable | (uint64_t)data[1].inheritable << 32;
    return 0;
}

int mb_capset(uint64_t effective, uint64_t permitted, uint64_t inheritable)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {
        {(uint32_t)effective, (uint32_t)permitted, (uint32_t)inheritable},
        {(uint32_t)(effective >> 32), (uint32_t)(permitted >> 32), (uint32_t)(inheritable >> 32)},
    };
    RESULT(syscall(SYS_capset, &header, data));
}

int mb_prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d)
{
    RESULT(prctl(option, a, b, c, d));
}

/* The raw calls: they change the calling thread alone.  The C library's wrappers change every
 * thread it knows of, and the child of a threaded process still has a list of its parent's. */
int mb_setgroups(const uint32_t *groups, int count) { RESULT(syscall(SYS_setgroups, count, groups)); }

int mb_setresgid(uint32_t rgid, uint32_t egid, uint32_t sgid)
{
    RESULT(syscall(SYS_setresgid, rgid, egid, sgid));
}

int mb_setresuid(uint32_t ruid, uint32_t euid, uint32_t suid)
{
    RESULT(syscall(SYS_setresuid, ruid, euid, suid));
}

int mb_seccomp(unsigned int operation, unsigned int flags, const char *filter, size_t bytes)
{
    struct { unsigned short len; const char *filter; } program = {(unsigned short)(bytes / 8), filter};
    RESULT(syscall(SYS_seccomp, operation, flags, bytes ? &program : NULL));
}

int mb_ptrace(unsigned long request, int pid, unsigned long address, void *data)
{
    RESULT(syscall(SYS_ptrace, request, pid, address, data));
}

int mb_keyctl_join_session(void)
{
    long serial = syscall(SYS_keyctl, 1L /* KEYCTL_JOIN_SESSION_KEYRING */, NULL, 0L, 0L, 0L);
    return serial < 0 ? -errno : 0;
}

int mb_bpf(int command, char *attributes, unsigned int size)
{
    RESULT(syscall(SYS_bpf, command, attributes, size));
}

int mb_prlimit(int resource, uint64_t soft, uint64_t hard)
{
    struct { uint64_t soft, hard; } limit = {soft, hard};
    RESULT(syscall(SYS_prlimit64, 0, resource, &limit, NULL));
}

int mb_sethostname(const char *name, size_t length) { RESULT(syscall(SYS_sethostname, name, length)); }

int mb_setdomainname(const char *name, size_t length)
{
    RESULT(syscall(SYS_setdomainname, name, length));
}

/* ip link set NAME up, in the caller's network namespace: netdevice(7) */
int mb_link_up(const char *name)
{
    struct ifreq request = {0};
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    int result = ioctl(fd, SIOCGIFFLAGS, &request);
    if (result == 0) {
        request.ifr_flags |= IFF_UP;
        result = ioctl(fd, SIOCSIFFLAGS, &request);
    }
    int error = errno;
    close(fd);
    return result < 0 ? -error : 0;
}

int mb_socketpair(int type, int *first, int *second)
{
    int fds[2];
    if (socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, fds) < 0)
        return -errno;
    *first = fds[0];
    *second = fds[1];
    return 0;
}

/* One message, with a descriptor when fd is not negative: unix(7), SCM_RIGHTS. */
int mb_send_fd(int socket, int fd, const char *message, size_t length)
{
    union { struct cmsghdr header; char space[CMSG_SPACE(sizeof(int))]; } control = {0};
    struct iovec data = {.iov_base = (void *)message, .iov_len = length};
    struct msghdr packet = {.msg_iov = &data, .msg_iovlen = 1};
    if (fd >= 0) {
        packet.msg_control = control.space;
        packet.msg_controllen = sizeof control.space;
        struct cmsghdr *header = CMSG_FIRSTHDR(&packet);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(header), &fd, sizeof fd);
    }
    RESULT(sendmsg(socket, &packet, MSG_NOSIGNAL));
}

/* The next message, its descriptor (or -1) in *fd.  A message that did not fit is an error. */
int mb_recv_fd(int socket, char *message, size_t length, int *fd)
{
    union { struct cmsghdr header; char space[CMSG_SPACE(sizeof(int))]; } control;
    struct iovec data = {.iov_base = message, .iov_len = length};
    struct msghdr packet = {.msg_iov = &data, .msg_iovlen = 1,
                            .msg_control = control.space, .msg_controllen = sizeof control.space};
    *fd = -1;
    ssize_t count = recvmsg(socket, &packet, MSG_CMSG_CLOEXEC);
    if (count < 0)
        return -errno;
    struct cmsghdr *header = CMSG_FIRSTHDR(&packet);
    if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS)
        memcpy(fd, CMSG_DATA(header), sizeof *fd);
    return packet.msg_flags & (MSG_TRUNC | MSG_CTRUNC) ? -EMSGSIZE : (int)count;
}

/* Load a filter with SECCOMP_FILTER_FLAG_NEW_LISTENER and send the listener through a socket.
 *
 * The filter is in force as soon as seccomp(2) returns, for the sendmsg(2) that hands its listener over too: one that
 * notifies of sendmsg would wait for ever, since nobody has the listener yet, and one that refuses it would keep
 * it.  Where the filter allows sendmsg there is no more to it.  Where it does not (by_thread), a second thread does
 * the sending: it exists before the filter, which applies to the calling thread alone, and shares the descriptors.
 * (pidfd_getfd(2) by the supervisor would need a process open to ptrace, and so to everybody in namespaces that it
 * has joined: CVE-2016-9962.)
 *
 * Between seccomp(2) and the end of the sending the caller makes no call at all, not even futex(2): it spins.  The
 * other thread has the caller's thread pointer, so errno is shared; it makes raw calls only, touches nothing once it
 * has told its result, and is ended by the C library's clone(3) with exit(2), which ends a thread.
 */
struct handover {
    int listener, result, socket; /* PENDING until known; a result is 0 or -errno */
    size_t length;
    const char *message;
};

enum { PENDING = INT_MIN };

static int hand_over(void *argument)
{
    struct handover *this = argument;
    struct timespec moment = {.tv_nsec = 20000};
    int listener;
    while ((listener = __atomic_load_n(&this->listener, __ATOMIC_ACQUIRE)) == PENDING)
        syscall(SYS_nanosleep, &moment, NULL);
    int result = listener < 0 ? listener : mb_send_fd(this->socket, listener, this->message, this->length);
    __atomic_store_n(&this->result, result, __ATOMIC_RELEASE);
    return 0;
}

int mb_seccomp_listener(unsigned int flags, const char *filter, size_t bytes, int socket,
                        const char *message, size_t length, int by_thread)
{
    enum { STACK = 65536, TSYNC = 1 << 0, NEW_LISTENER = 1 << 3, TSYNC_ESRCH = 1 << 4, SET_MODE_FILTER = 1 };
    if (!by_thread) {
        int listener = mb_seccomp(SET_MODE_FILTER, flags | NEW_LISTENER, filter, bytes);
        return listener < 0 ? listener : mb_send_fd(socket, listener, message, length);
    }
    struct handover this = {.listener = PENDING, .result = PENDING, .socket = socket,
                            .message = message, .length = length};
    char *stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (stack == MAP_FAILED)
        return -errno;
    int shared = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
    if (clone(hand_over, stack + STACK, shared, &this) < 0)
        return -errno;
    flags &= ~(TSYNC | TSYNC_ESRCH); /* the only other thread is this one, which ends at once */
    int result, listener = mb_seccomp(SET_MODE_FILTER, flags | NEW_LISTENER, filter, bytes);
    __atomic_store_n(&this.listener, listener, __ATOMIC_RELEASE);
    while ((result = __atomic_load_n(&this.result, __ATOMIC_ACQUIRE)) == PENDING)
        ;
    return result;
}

/* The slave of a pty without a path that the container could have replaced: ioctl_tty(2). */
int mb_tiocgptpeer(int master, int flags) { RESULT(ioctl(master, 0x5441UL /* TIOCGPTPEER */, flags)); }
