// Counts in static memory and looks for what an earlier run left on the heap.
#include <stdio.h>
#include <stdlib.h>
static int count = 40;
int main(void) {
  char *block = malloc(300000);
  long dirty = 0;
  for (int i = 0; i < 300000; i++) dirty += block[i] != 0;
  for (int i = 0; i < 300000; i++) block[i] = 1;
  printf("%d %ld %d\n", ++count, dirty, (int)__builtin_wasm_memory_size(0));
}
