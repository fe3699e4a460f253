// Writes one line. With an argument it goes on to call its host without end.
#include <stdio.h>
#include <unistd.h>
int main(int argc, char **argv) {
  puts("on");
  if (argc > 1)
    for (;;) sleep(0);
}
