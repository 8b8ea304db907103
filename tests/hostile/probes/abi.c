/* abi x32|i386|native: getpid by another ABI of the machine. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <sys/syscall.h>

int main(int argc, char **argv)
{
    long result = -1;
    if (!strcmp(argv[1], "x32"))
        result = syscall(0x40000000 | SYS_getpid);
    else if (!strcmp(argv[1], "i386"))
        __asm__ volatile("int $0x80" : "=a"(result) : "a"(20L) : "memory");
    else
        result = syscall(SYS_getpid);
    printf("%s\n", result == getpid() ? "ok" : "refused");
    return 0;
}
