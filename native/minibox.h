/* What minibox._native offers to Python: one function a system call, under the call's own name.
 * Every function returns what the kernel returned, or -errno; none of them decides anything. */

/* processes */
int mb_clone3(uint64_t flags, int cgroup_fd, int *pidfd);
int mb_unshare(int flags);
int mb_setns(int fd, int flags);
int mb_execveat(int fd, const char *path, char *const argv[], char *const envp[], int flags);
int mb_close_range(unsigned int first, unsigned int last, unsigned int flags);
int mb_pidfd_open(int pid, unsigned int flags);
int mb_pidfd_send_signal(int pidfd, int signal);
int mb_reset_signals(void);
int mb_memfd_create(const char *name, unsigned int flags);

/* mounts */
int mb_openat2(int dirfd, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve);
int mb_open_tree(int dirfd, const char *path, unsigned int flags);
int mb_move_mount(int from_fd, const char *from, int to_fd, const char *to, unsigned int flags);
int mb_fsopen(const char *type, unsigned int flags);
int mb_fsconfig(int fd, unsigned int command, const char *key, const char *value, int aux);
int mb_fsmount(int fd, unsigned int flags, unsigned int attributes);
int mb_mount_setattr(int fd, const char *path, unsigned int flags, uint64_t set, uint64_t clear,
                     uint64_t propagation, int userns_fd);
int mb_pivot_root(const char *new_root, const char *put_old);
int mb_umount2(const char *path, int flags);
int64_t mb_fstatfs_type(int fd);

/* credentials and privileges */
int mb_capget(uint64_t *effective, uint64_t *permitted, uint64_t *inheritable);
int mb_capset(uint64_t effective, uint64_t permitted, uint64_t inheritable);
int mb_prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d);
int mb_setgroups(const uint32_t *groups, int count);
int mb_setresgid(uint32_t rgid, uint32_t egid, uint32_t sgid);
int mb_setresuid(uint32_t ruid, uint32_t euid, uint32_t suid);
int mb_seccomp(unsigned int operation, unsigned int flags, const char *filter, size_t bytes);
int mb_seccomp_listener(unsigned int flags, const char *filter, size_t bytes, int socket,
                        const char *message, size_t length, int by_thread);
int mb_ptrace(unsigned long request, int pid, unsigned long address, void *data);
int mb_keyctl_join_session(void);
int mb_bpf(int command, char *attributes, unsigned int size);
int mb_prlimit(int resource, uint64_t soft, uint64_t hard);

/* names and links */
int mb_sethostname(const char *name, size_t length);
int mb_setdomainname(const char *name, size_t length);
int mb_link_up(const char *name);

/* descriptors and terminals */
int mb_socketpair(int type, int *first, int *second);
int mb_send_fd(int socket, int fd, const char *message, size_t length);
int mb_recv_fd(int socket, char *message, size_t length, int *fd);
int mb_tiocgptpeer(int master, int flags);
