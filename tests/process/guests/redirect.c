/* Answers with nothing but a location, `to` ("/elsewhere" by default), as RFC 3875 allows. */
#include "guest.h"

int main(void)
{
    printf("Location: %s\n\n", text_parameter("to", "/elsewhere"));
    return 0;
}
