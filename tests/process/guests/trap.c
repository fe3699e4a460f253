/* Answers in part when `late=1`, then executes `unreachable`. */
#include "guest.h"

int main(void)
{
    if (parameter("late", 0)) printf("Content-Type: text/plain\n\nthe first half");
    fflush(stdout);
    __builtin_trap();
}
