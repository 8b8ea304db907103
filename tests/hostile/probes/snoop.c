/* snoop: everything that another process shows through /proc and to a tracer; a line a process that is
 * neither PID 1 nor this one. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *name(long result) { return result < 0 ? strerrorname_np(errno) : "ok"; }

int main(void)
{
    struct dirent *entry;
    DIR *proc = opendir("/proc");
    while ((entry = readdir(proc))) {
        char path[300], text[300] = "";
        int pid = atoi(entry->d_name);
        if (pid < 2 || pid == getpid())
            continue;
        printf("process");
        for (const char **file = (const char *[]){"mem", "environ", "maps", 0}; *file; file++) {
            snprintf(path, sizeof path, "/proc/%d/%s", pid, *file);
            printf(" %s=%s", *file, name(open(path, O_RDONLY)));
        }
        for (const char **link = (const char *[]){"exe", "cwd", "root", 0}; *link; link++) {
            snprintf(path, sizeof path, "/proc/%d/%s", pid, *link);
            printf(" %s=%s", *link, name(readlink(path, text, sizeof text)));
        }
        snprintf(path, sizeof path, "/proc/%d/fd", pid);
        DIR *fds = opendir(path);
        printf(" fd=%s", name(fds ? 0 : -1));
        long traced = ptrace(PTRACE_SEIZE, pid, 0, 0);
        printf(" ptrace=%s\n", name(traced));
    }
    return 0;
}
