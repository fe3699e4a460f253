#include "say.h"
#include <sys/uio.h>
int main(void) {
  // How many buffers one call fills or drains is the host's choice: go on until all is through.
  char a[4] = {0}, b[4] = {0}, c[4] = {0};
  int fd = open("/work/v", O_RDWR | O_CREAT, 0600);
  struct iovec out[4] = {{"", 0}, {"abc", 3}, {"", 0}, {"defg", 4}};
  size_t done = 0;
  for (int i = 0; i < 4;) {
    ssize_t n = writev(fd, out + i, 4 - i);
    if (n < 0) return 1;
    done += n;
    while (i < 4 && (size_t)n >= out[i].iov_len) n -= out[i++].iov_len;
    if (i < 4) { out[i].iov_base = (char *)out[i].iov_base + n; out[i].iov_len -= n; }
  }
  printf("%zu\n", done);
  lseek(fd, 0, SEEK_SET);
  struct iovec in[3] = {{a, 0}, {b, 3}, {c, 3}};
  ssize_t n = readv(fd, in, 3);
  if (n == 3) n += readv(fd, in + 2, 1);
  printf("%zd %s %s\n", n, b, c);
  TRY(readv(fd, in, 0) <= 0);
  TRY(writev(fd, out, -1) <= 0);
}
