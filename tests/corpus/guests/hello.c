#include "say.h"
int main(void) { puts("hello"); fprintf(stderr, "and an error\n"); return 0; }
