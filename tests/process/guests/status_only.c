/* Answers with nothing but a status, `n` (404 by default), without a reason phrase. */
#include "guest.h"

int main(void)
{
    printf("Status: %ld\n\n", parameter("n", 404));
    return 0;
}
