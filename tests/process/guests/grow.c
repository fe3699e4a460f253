/* Grows memory and touches every page until the host says no, then aborts. */
#include <stdlib.h>

int main(void)
{
    enum { PAGE = 65536, STEP = 16 };
    for (;;) {
        size_t before = __builtin_wasm_memory_grow(0, STEP);
        if (before == (size_t)-1) abort();
        for (size_t i = 0; i < STEP; i++) *(volatile char *)((before + i) * PAGE) = 1;
    }
}
