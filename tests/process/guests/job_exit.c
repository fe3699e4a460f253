/* A command: prints a line, sleeps `ms` (0 by default), exits with `n` (0 by default). */
#include "guest.h"

int main(void)
{
    printf("started\n");
    fflush(stdout);
    sleep_millis(parameter("ms", 0));
    fprintf(stderr, "ending\n");
    return (int)parameter("n", 0);
}
