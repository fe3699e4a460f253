/* Writes to /data/filled until it is refused, or to `mb` MiB; answers `BYTES errno N`. */
#include <errno.h>
#include <fcntl.h>

#include "guest.h"

int main(void)
{
    static char block[1 << 20];
    long long total = 0, most = (long long)parameter("mb", 1 << 20) << 20;
    memset(block, 'f', sizeof block);
    printf("Content-Type: text/plain\n\n");
    int descriptor = open("/data/filled", O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ssize_t count = 0;
    while (descriptor >= 0 && total < most) {
        count = write(descriptor, block, sizeof block);
        if (count <= 0) break;
        total += count;
    }
    int error = descriptor < 0 || count < 0 ? errno : 0;
    if (error == 0 && fsync(descriptor) != 0) error = errno;
    printf("%lld errno %d\n", total, error);
    return 0;
}
