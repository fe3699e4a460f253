// Opens a file until there are no descriptors left, then again after it closed one.
#include <errno.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
int main(void) {
  int n = 0, fd, last = 0;
  DIR *d = opendir("/");
  readdir(d);
  while (n < 5000 && (fd = open("/file", O_RDONLY)) >= 0) { n++; last = fd; }
  printf("%d %d %d\n", n, errno == EMFILE, last);
  close(10);
  printf("%d\n", open("/file", O_RDONLY));
}
