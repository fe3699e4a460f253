#include "say.h"
int main(void) {
  for (int i = 0; i < 100000; i++) printf("line %d\n", i);
  static char block[1 << 20];
  memset(block, 'x', sizeof block);
  TRY(write(1, block, sizeof block));
}
