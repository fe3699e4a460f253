#include "say.h"
int main(void) {
  int fd = open("/work/sparse", O_RDWR | O_CREAT, 0600);
  TRY(pwrite(fd, "end", 3, 1 << 20));
  char block[64];
  TRY(pread(fd, block, 64, 1 << 19));
  int zeros = 0;
  for (int i = 0; i < 64; i++) zeros += !block[i];
  printf("%d\n", zeros);
  TRY(lseek(fd, 1LL << 40, SEEK_SET));
  TRY(read(fd, block, 1));
  TRY(lseek(fd, (1ULL << 63) - 1, SEEK_SET));
  TRY(lseek(fd, 1, SEEK_CUR));
  TRY(ftruncate(fd, 10));
}
