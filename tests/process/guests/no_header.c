/* Prints a line that is no header, and no empty line. */
#include <stdio.h>

int main(void)
{
    return puts("hello without a header") < 0;
}
