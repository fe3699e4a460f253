// Ends by a trap.
int main(void) { __builtin_trap(); }
