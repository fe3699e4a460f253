/* Answers with `Status: ` and whatever `status` says ("twelve" by default). */
#include "guest.h"

int main(void)
{
    printf("Status: %s\nContent-Type: text/plain\n\nbody\n", text_parameter("status", "twelve"));
    return 0;
}
