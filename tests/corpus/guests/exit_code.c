#include "say.h"
int main(int argc, char **argv) { printf("leaving"); exit(argc > 1 ? atoi(argv[1]) : 0); }
