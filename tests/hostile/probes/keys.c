/* keys DESCRIPTION: the key of that name in the session keyring, and a key of one's own. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    char data[64] = "";
    long key = syscall(SYS_keyctl, 10 /* SEARCH */, -3L, "user", argv[1], 0);
    printf("search %s\n", key < 0 ? strerrorname_np(errno) : "ok");
    if (key >= 0) {
        syscall(SYS_keyctl, 11 /* READ */, key, data, sizeof data - 1);
        printf("secret %s\n", data);
    }
    key = syscall(SYS_add_key, "user", "mine", "x", 1L, -3L);
    printf("add %s\n", key < 0 ? strerrorname_np(errno) : "ok");
    return 0;
}
