/* Answers with `kib` KiB (64 by default): lines of 63 digits and letters that differ. */
#include "guest.h"

int main(void)
{
    long lines = parameter("kib", 64) * 16;
    printf("Content-Type: text/plain\n\n");
    for (long i = 0; i < lines; i++) printf("%010ld %052d\n", i, 0);
    return fflush(stdout) != 0;
}
