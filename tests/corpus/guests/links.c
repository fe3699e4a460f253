#include "say.h"
static void show(const char *path) {
  char target[64] = {0};
  ssize_t n = readlink(path, target, 63);
  printf("%s -> %s (%zd%s%s)\n", path, target, n, n < 0 ? " " : "", n < 0 ? strerror(errno) : "");
}
int main(void) {
  char byte[4];
  struct stat s, t;
  TRY(link("/work/a.txt", "/work/hard"));
  stat("/work/a.txt", &s);
  stat("/work/hard", &t);
  printf("same %d links %d\n", s.st_ino == t.st_ino && s.st_dev == t.st_dev, (int)s.st_nlink);
  TRY(link("/work/a.txt", "/work/hard"));
  TRY(link("/work/d", "/work/hard_directory"));
  TRY(link("/work/l", "/work/hard_link"));
  TRY(link("/work/absent", "/work/x"));
  TRY(symlink("a.txt", "/work/s"));
  TRY(symlink("a.txt", "/work/s"));
  TRY(symlink("/etc/passwd", "/work/absolute"));
  TRY(symlink("../../../etc/passwd", "/work/up_and_out"));
  TRY(symlink("", "/work/empty"));
  TRY(symlink("x", "/work/slash/"));
  show("/work/s");
  show("/work/up_and_out");
  show("/work/out");
  show("/work/a.txt");
  show("/work/absent");
  TRY(readlink("/work/s", byte, 2));
  TRY(open("/work/s", O_RDONLY | O_NOFOLLOW));
  TRY(open("/work/s", O_RDONLY) > 2);
  TRY(open("/work/up_and_out", O_RDONLY));
  TRY(open("/work/up_and_out", O_WRONLY | O_CREAT, 0600));
  lstat("/work/s", &s);
  stat("/work/s", &t);
  printf("%d %d %lld\n", S_ISLNK(s.st_mode), S_ISREG(t.st_mode), (long long)s.st_size);
  TRY(unlink("/work/s"));
  TRY(unlink("/work/hard"));
  stat("/work/a.txt", &s);
  printf("links %d\n", (int)s.st_nlink);
}
