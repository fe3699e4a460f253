// Says by its exit code which of standard input (1) and output (2) are terminals.
#include <unistd.h>
int main(void) { return isatty(0) + 2 * isatty(1); }
