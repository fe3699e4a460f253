#include "say.h"
static void show(const char *path, int follow) {
  struct stat s;
  memset(&s, 0, sizeof s);
  int r = follow ? stat(path, &s) : lstat(path, &s);
  printf("%s %d mode %o size %lld links %d\n", path, r, (unsigned)s.st_mode, S_ISDIR(s.st_mode) ? 0 : (long long)s.st_size, S_ISDIR(s.st_mode) ? 0 : (int)s.st_nlink);
}
int main(void) {
  const char *const paths[] = {"/work", "/work/", "/work/a.txt", "/work/a.txt/", "/work/d", "/work/d/", "/work/l", "/work/ld", "/work/ld/", "/work/loop", "/work/out", "/work/up", "/work/absent", "/work/fifo"};
  for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) { show(paths[i], 0); show(paths[i], 1); }
  struct stat s, t;
  stat("/work/d", &s);
  stat("/work/ld", &t);
  printf("%d %d\n", s.st_ino == t.st_ino, s.st_dev == t.st_dev);
  for (int fd = 0; fd < 5; fd++) {
    memset(&s, 0, sizeof s);
    int r = fstat(fd, &s);
    printf("fd %d: %d %o %d\n", fd, r, (unsigned)s.st_mode & S_IFMT, isatty(fd));
  }
  TRY(access("/work/a.txt", R_OK | W_OK));
  TRY(access("/work/a.txt", X_OK));
  TRY(access("/work/absent", F_OK));
}
