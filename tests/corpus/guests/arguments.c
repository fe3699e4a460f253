#include "say.h"
extern char **environ;
int main(int argc, char **argv) {
  for (int i = 0; i < argc; i++) printf("%d [%s]\n", i, argv[i]);
  for (char **e = environ; *e; e++) printf("[%s]\n", *e);
  printf("%s %s\n", getenv("NAME") ? getenv("NAME") : "-", getenv("ABSENT") ? "?" : "-");
  setenv("NAME", "changed", 1);
  puts(getenv("NAME"));
}
