#include "say.h"
#include <dirent.h>
int main(void) {
  char target[16] = {0};
  struct stat s;
  int d = open("/work/d", O_RDONLY | O_DIRECTORY);
  TRY(openat(d, "x", O_RDONLY) > 2);
  TRY(openat(d, "../a.txt", O_RDONLY));
  TRY(openat(d, ".", O_RDONLY) > 2);
  TRY(openat(d, "", O_RDONLY));
  TRY(mkdirat(d, "sub", 0700));
  TRY(fstatat(d, "sub", &s, 0));
  TRY(symlinkat("x", d, "to_x"));
  TRY(readlinkat(d, "to_x", target, 15));
  TRY(renameat(d, "x", d, "y"));
  TRY(linkat(d, "y", d, "z", 0));
  TRY(unlinkat(d, "y", 0));
  TRY(unlinkat(d, "sub", AT_REMOVEDIR));
  TRY(unlinkat(d, "sub", 0));
  TRY(openat(open("/work/a.txt", O_RDONLY), "x", O_RDONLY));
  TRY(faccessat(d, "z", R_OK, 0));
  TRY(open("/work/a.txt", O_RDONLY | O_DIRECTORY));
  TRY(open("/work/l", O_RDONLY | O_DIRECTORY));
  TRY(open("/work/ld", O_RDONLY | O_DIRECTORY) > 2);
  TRY(open("/work/ld", O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
}
