#include "say.h"
int main(void) {
  char buffer[1000];
  ssize_t n;
  long total = 0;
  while ((n = read(0, buffer, sizeof buffer)) > 0) { total += n; write(1, buffer, n); }
  fprintf(stderr, "%ld bytes, then %ld\n", total, (long)read(0, buffer, 10));
}
