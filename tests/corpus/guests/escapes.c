#include "say.h"
static const char *const ways[] = {
  "/work/..", "/work/../", "/work/../etc/passwd", "/work/d/../../etc/passwd", "/work/./../x", "/work/out",
  "/work/up", "/work/up/x", "/work/up/etc/passwd", "/work/ld/../../x", "/work/loop", "/work/loop/x",
  "/work/d/../../work/a.txt", "/work//etc/passwd", "/work/a.txt/..", "/work/a.txt/../a.txt", "/work/l/x",
  "/work/proc", "/work/proc/self/root", "/work/chain", "/work/d/back/a.txt", "/etc/passwd", "..", "../x", "/",
};
int main(void) {
  for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
    const char *way = ways[i];
    struct stat s;
    printf("--- %s\n", way);
    TRY(open(way, O_RDONLY) < 0 ? -1 : 0);
    TRY(open(way, O_WRONLY | O_CREAT, 0600) < 0 ? -1 : 0);
    TRY(stat(way, &s));
    TRY(lstat(way, &s));
    TRY(mkdir(way, 0700));
    TRY(link("/work/a.txt", way));
    TRY(symlink("a.txt", way));
    TRY(rename("/work/victim", way));
    TRY(truncate(way, 0));
    TRY(access(way, R_OK));
  }
}
