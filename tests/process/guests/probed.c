/* Answers "served"; exports healthy(), which prints a line and returns `sick` (0 by default), and trapping(). */
#include "guest.h"

__attribute__((export_name("healthy"))) int healthy(void)
{
    printf("asked\n");
    fflush(stdout);
    return (int)parameter("sick", 0);
}

__attribute__((export_name("trapping"))) void trapping(void)
{
    __builtin_trap();
}

int main(void)
{
    sleep_millis(parameter("ms", 0));
    printf("Content-Type: text/plain\n\nserved\n");
    return 0;
}
