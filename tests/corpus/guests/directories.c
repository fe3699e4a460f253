#include "say.h"
#include <dirent.h>
static int by_name(const struct dirent **a, const struct dirent **b) { return strcmp((*a)->d_name, (*b)->d_name); }
static void list(const char *path) {
  struct dirent **names;
  int n = scandir(path, &names, 0, by_name);
  printf("%s: %d\n", path, n);
  for (int i = 0; i < n; i++) printf("  %d %s\n", names[i]->d_type, names[i]->d_name);
}
int main(void) {
  list("/work");
  list("/work/d");
  list("/work/a.txt");
  TRY(mkdir("/work/m", 0700));
  TRY(mkdir("/work/m", 0700));
  TRY(mkdir("/work/m/n/", 0700));
  TRY(mkdir("/work/no/n", 0700));
  TRY(mkdir("/work/m/.", 0700));
  TRY(mkdir("/work/m/..", 0700));
  TRY(mkdir("/work/a.txt/x", 0700));
  TRY(rmdir("/work/m"));
  TRY(rmdir("/work/m/n"));
  TRY(rmdir("/work/m/."));
  TRY(rmdir("/work/m/"));
  TRY(rmdir("/work/m"));
  TRY(rmdir("/work/a.txt"));
  TRY(rmdir("/work/."));
  TRY(rmdir("/work"));
  TRY(unlink("/work/d"));
  TRY(unlink("/work/absent"));
  TRY(unlink("/work/d/x"));
  TRY(rmdir("/work/d"));
  list("/work");
}
