#include "say.h"
int main(void) {
  long total = 0;
  for (int i = 1; i <= 64; i++) {
    char *block = malloc(i << 12);
    if (!block) break;
    memset(block, i, i << 12);
    total += block[i] == i;
    if (i % 3) free(block);
  }
  printf("%ld\n", total);
  TRY(malloc(0xf0000000u) == 0);
}
