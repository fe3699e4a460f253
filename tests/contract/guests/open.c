// Reads and then writes each file that an argument names, and says how that went.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
int main(int argc, char **argv) {
  char text[100] = {0};
  for (int i = 1; i < argc; i++) {
    int fd = open(argv[i], O_RDONLY);
    if (fd < 0) printf("%s: %s\n", argv[i], strerror(errno));
    else { memset(text, 0, 100); read(fd, text, 99); printf("%s: %s\n", argv[i], text); }
    fd = open(argv[i], O_WRONLY | O_CREAT, 0600);
    if (fd < 0) printf("%s: %s\n", argv[i], strerror(errno));
    else if (write(fd, "new", 3) == 3) puts("written");
  }
}
