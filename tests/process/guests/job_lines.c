/* A command: prints numbered lines forever, `ms` (0 by default) apart. */
#include "guest.h"

int main(void)
{
    long millis = parameter("ms", 0);
    for (unsigned long i = 1;; i++) {
        if (printf("line %lu\n", i) < 0 || fflush(stdout) != 0) return 1;
        if (millis > 0) sleep_millis(millis);
    }
}
