// Writes its arguments in brackets and its environment in braces.
#include <stdio.h>
extern char **environ;
int main(int argc, char **argv) {
  for (int i = 0; i < argc; i++) printf("[%s]", argv[i]);
  for (char **e = environ; *e; e++) printf("{%s}", *e);
}
