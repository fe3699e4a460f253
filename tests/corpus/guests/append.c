#include "say.h"
int main(void) {
  char buffer[64] = {0};
  int fd = open("/work/log", O_RDWR | O_CREAT | O_APPEND, 0600);
  TRY(write(fd, "one\n", 4));
  TRY(lseek(fd, 0, SEEK_SET));
  TRY(write(fd, "two\n", 4));
  TRY(lseek(fd, 0, SEEK_CUR));
  TRY(pwrite(fd, "zero", 4, 0));
  TRY(lseek(fd, 0, SEEK_CUR));
  TRY(lseek(fd, 0, SEEK_SET));
  TRY(read(fd, buffer, 63));
  fputs(buffer, stdout);
  int other = open("/work/log", O_WRONLY | O_APPEND);
  TRY(write(other, "three\n", 6));
  TRY(write(fd, "four\n", 5));
  TRY(fcntl(fd, F_GETFL) & O_APPEND);
  TRY(fcntl(fd, F_SETFL, 0));
  TRY(lseek(fd, 0, SEEK_SET));
  TRY(write(fd, "ONE", 3));
  TRY(fcntl(fd, F_SETFL, O_APPEND | O_NONBLOCK));
  TRY((fcntl(fd, F_GETFL) & (O_APPEND | O_NONBLOCK)) == (O_APPEND | O_NONBLOCK));
  TRY(write(fd, "end\n", 4));
}
