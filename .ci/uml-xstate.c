/* For .ci/run: lets User-Mode Linux 6.1 run on processors with AMX, preloaded into it.
 *
 * Its buffer for the floating point state of a process holds what processors had up to AVX-512.  On one with more, the
 * host gives ptrace(PTRACE_GETREGSET) that much of the state, but takes it back with PTRACE_SETREGSET only whole
 * (EFAULT), and UML panics: "ptrace set fp regs failed, errno = 14".  So what UML hands back is laid over the state as
 * it is; the rest is that of a process that never used AMX. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>

typedef long ptrace_function(enum __ptrace_request request, pid_t pid, void *addr, void *data);

long ptrace(enum __ptrace_request request, ...)
{
    static ptrace_function *real;
    static char state[65536];
    va_list rest;

    va_start(rest, request);
    pid_t pid = va_arg(rest, pid_t);
    void *addr = va_arg(rest, void *);
    void *data = va_arg(rest, void *);
    va_end(rest);

    if (real == NULL)
        real = (ptrace_function *)dlsym(RTLD_NEXT, "ptrace");
    if (request == PTRACE_SETREGSET && addr == (void *)NT_X86_XSTATE) {
        const struct iovec *part = data;
        struct iovec whole = {state, sizeof state};
        if (real(PTRACE_GETREGSET, pid, addr, &whole) == 0 && whole.iov_len > part->iov_len) {
            memcpy(state, part->iov_base, part->iov_len);
            return real(request, pid, addr, &whole);
        }
    }
    return real(request, pid, addr, data);
}
