/* Logs `mb` MiB (10 by default) in lines of 64 bytes, then answers. `lines=0` makes it one line
 * without an end. */
#include "guest.h"

int main(void)
{
    static char block[1 << 20];
    memset(block, 'e', sizeof block);
    if (parameter("lines", 1)) {
        for (size_t i = 63; i < sizeof block; i += 64) block[i] = '\n';
    }
    for (long left = parameter("mb", 10); left > 0; left--) {
        for (size_t sent = 0; sent < sizeof block;) {
            ssize_t count = write(STDERR_FILENO, block + sent, sizeof block - sent);
            if (count <= 0) return 1;
            sent += (size_t)count;
        }
    }
    printf("Content-Type: text/plain\n\nlogged\n");
    return 0;
}
