/* Answers (unless `silent=1`), then exits with `n` (3 by default). */
#include "guest.h"

int main(void)
{
    if (!parameter("silent", 0)) printf("Content-Type: text/plain\n\nbody\n");
    fflush(stdout);
    return (int)parameter("n", 3);
}
