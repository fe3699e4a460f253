#include "say.h"
static void show(const char *path) {
  struct stat s;
  lstat(path, &s);
  printf("%s %lld.%09ld %lld.%09ld\n", path, (long long)s.st_atim.tv_sec, s.st_atim.tv_nsec, (long long)s.st_mtim.tv_sec, s.st_mtim.tv_nsec);
}
int main(void) {
  struct timespec times[2] = {{1000000000, 123456789}, {1500000000, 987654321}};
  TRY(utimensat(AT_FDCWD, "/work/a.txt", times, 0));
  show("/work/a.txt");
  times[0].tv_nsec = UTIME_OMIT;
  times[1].tv_sec = 1600000000;
  TRY(utimensat(AT_FDCWD, "/work/a.txt", times, 0));
  show("/work/a.txt");
  times[0].tv_nsec = 0;
  TRY(utimensat(AT_FDCWD, "/work/l", times, AT_SYMLINK_NOFOLLOW));
  show("/work/l");
  show("/work/a.txt");
  TRY(utimensat(AT_FDCWD, "/work/l", times, 0));
  show("/work/a.txt");
  TRY(utimensat(AT_FDCWD, "/work/d", times, 0));
  show("/work/d");
  TRY(utimensat(AT_FDCWD, "/work/out", times, 0));
  TRY(utimensat(AT_FDCWD, "/work/absent", times, 0));
  int fd = open("/work/a.txt", O_RDONLY);
  times[1].tv_nsec = UTIME_NOW;
  TRY(futimens(fd, times));
  struct stat s;
  fstat(fd, &s);
  printf("%lld %d\n", (long long)s.st_atim.tv_sec, s.st_mtim.tv_sec > 1700000000);
  fd = open("/work/d", O_RDONLY | O_DIRECTORY);
  times[1] = (struct timespec){5, 6};
  TRY(futimens(fd, times));
  show("/work/d");
}
