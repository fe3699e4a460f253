#include "say.h"
static int deep(int n) { volatile char space[512]; space[n % 512] = n; return n ? deep(n - 1) + space[0] : 0; }
typedef void (*function)(void);
int main(int argc, char **argv) {
  puts("before");
  fflush(stdout);
  switch (argc > 1 ? argv[1][0] : 'a') {
    case 'a': abort();
    case 'u': __builtin_unreachable();
    case 't': __builtin_trap();
    case 'm': return *(volatile int *)0xfffffff0;
    case 'd': { volatile int zero = 0; return 1 / zero; }
    case 's': return deep(1 << 30);
    case 'c': { volatile unsigned long index = 0x7fffffff; ((function)index)(); return 0; }
    case 'f': { volatile float big = 1e30f; volatile int i = __builtin_wasm_trunc_s_i32_f32(big); return i; }
  }
}
