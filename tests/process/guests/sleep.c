/* Sleeps `ms` milliseconds (100 by default) in poll_oneoff, then answers. */
#include "guest.h"

int main(void)
{
    sleep_millis(parameter("ms", 100));
    printf("Content-Type: text/plain\n\nslept\n");
    return 0;
}
