/* handle MOUNT TYPE HEX: open a file by its handle alone, through any descriptor of its file system. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    struct { struct file_handle head; unsigned char bytes[128]; } handle = {0};
    char text[64];
    handle.head.handle_type = atoi(argv[2]);
    for (; argv[3][2 * handle.head.handle_bytes]; handle.head.handle_bytes++)
        sscanf(argv[3] + 2 * handle.head.handle_bytes, "%2hhx", handle.head.f_handle + handle.head.handle_bytes);
    int fd = open_by_handle_at(open(argv[1], O_RDONLY), &handle.head, O_RDONLY);
    if (fd < 0) {
        printf("%s\n", strerrorname_np(errno));
        return 1;
    }
    ssize_t count = read(fd, text, sizeof text);
    printf("read %.*s", (int)count, text);
    return 0;
}
