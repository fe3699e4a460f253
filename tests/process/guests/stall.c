/* Sends the first half of an answer, then sleeps for a day. */
#include "guest.h"

int main(void)
{
    printf("Content-Type: text/plain\n\nthe first half");
    fflush(stdout);
    sleep_millis(86400000);
    return 0;
}
