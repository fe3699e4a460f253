// Writes one line.
#include <stdio.h>
int main(void) { puts("x"); }
