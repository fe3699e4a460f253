#include "say.h"
int main(void) {
  char line[64];
  int n = 0;
  while (fgets(line, sizeof line, stdin)) printf("%d: %s", ++n, line);
  printf("eof %d error %d\n", feof(stdin) != 0, ferror(stdin) != 0);
}
