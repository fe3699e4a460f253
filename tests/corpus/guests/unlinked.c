#include "say.h"
int main(void) {
  char buffer[32] = {0};
  int fd = open("/work/a.txt", O_RDWR);
  TRY(unlink("/work/a.txt"));
  TRY(read(fd, buffer, 31));
  puts(buffer);
  TRY(write(fd, "more", 4));
  struct stat s;
  fstat(fd, &s);
  printf("%lld %d\n", (long long)s.st_size, (int)s.st_nlink);
  int d = open("/work/empty", O_RDONLY | O_DIRECTORY);
  TRY(rmdir("/work/empty"));
  TRY(openat(d, "x", O_CREAT | O_WRONLY, 0600));
  TRY(fstat(d, &s));
}
