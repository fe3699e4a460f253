/* Answers with its arguments, its environment and the body: `arg VALUE` and `NAME=value` lines,
 * an empty line, then the body's bytes as they came. */
#include "guest.h"

extern char **environ;

int main(int argc, char **argv)
{
    static char buffer[65536];
    ssize_t count;
    printf("Content-Type: application/octet-stream\n\n");
    for (int i = 0; i < argc; i++) printf("arg %s\n", argv[i]);
    for (char **variable = environ; *variable != NULL; variable++) printf("%s\n", *variable);
    printf("\n");
    while ((count = read(STDIN_FILENO, buffer, sizeof buffer)) > 0) {
        fwrite(buffer, 1, (size_t)count, stdout);
    }
    return count < 0 || fflush(stdout) != 0;
}
