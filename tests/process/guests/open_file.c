/* Answers with the file at `path`, or with `errno N`. With `link=1`, first makes the symbolic
 * link /data/link to it and goes through that. */
#include <errno.h>
#include <fcntl.h>

#include "guest.h"

int main(void)
{
    const char *path = text_parameter("path", "/data/../../etc/passwd");
    char target[4096], buffer[4096];
    strncpy(target, path, sizeof target - 1);
    target[sizeof target - 1] = '\0';
    printf("Content-Type: text/plain\n\n");
    if (parameter("link", 0)) {
        unlink("/data/link");
        if (symlink(target, "/data/link") != 0) {
            printf("errno %d (symlink)\n", errno);
            return 0;
        }
        strcpy(target, "/data/link");
    }
    int descriptor = open(target, O_RDONLY);
    ssize_t count = descriptor < 0 ? -1 : 0;
    while (descriptor >= 0 && (count = read(descriptor, buffer, sizeof buffer)) > 0) {
        fwrite(buffer, 1, (size_t)count, stdout);
    }
    if (count < 0) printf("errno %d\n", errno);
    return 0;
}
