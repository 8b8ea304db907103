/* use pids|memory|fds COUNT: take that many (MiB of memory), and say how far it went. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    int count = atoi(argv[2]), done = 0;
    for (; done < count; done++) {
        if (!strcmp(argv[1], "pids")) {
            pid_t pid = fork();
            if (pid < 0)
                break;
            if (pid == 0) {
                pause();
                _exit(0);
            }
        } else if (!strcmp(argv[1], "memory")) {
            char *block = malloc(1 << 20);
            if (!block)
                break;
            memset(block, 1, 1 << 20);
        } else if (dup(1) < 0)
            break;
    }
    printf("%d %s\n", done, done < count ? strerrorname_np(errno) : "ok");
    return 0;
}
