/* Answers with `mb` MiB (1024 by default). Exits 1 when the host stops taking them. */
#include "guest.h"

int main(void)
{
    static char block[1 << 20];
    memset(block, 'x', sizeof block);
    if (write(STDOUT_FILENO, "Content-Type: text/plain\n\n", 26) != 26) return 1;
    for (long left = parameter("mb", 1024); left > 0; left--) {
        for (size_t sent = 0; sent < sizeof block;) {
            ssize_t count = write(STDOUT_FILENO, block + sent, sizeof block - sent);
            if (count <= 0) return 1;
            sent += (size_t)count;
        }
    }
    return 0;
}
