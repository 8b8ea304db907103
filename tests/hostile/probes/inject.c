/* inject REQUEST: put an X into the input of the terminal on stdin. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    long result = syscall(SYS_ioctl, 0, strtoul(argv[1], 0, 0), "X");
    printf("%s\n", result < 0 ? strerrorname_np(errno) : "ok");
    return 0;
}
