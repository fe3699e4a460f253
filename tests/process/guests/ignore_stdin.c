/* Answers without reading the body. */
#include <stdio.h>

int main(void)
{
    return printf("Content-Type: text/plain\n\nunread\n") < 0;
}
