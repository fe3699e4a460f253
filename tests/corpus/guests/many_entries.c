#include "say.h"
#include <dirent.h>
#define N 700
int main(void) {
  char name[80];
  static char seen[N];
  mkdir("/work/many", 0700);
  for (int i = 0; i < N; i++) {
    snprintf(name, sizeof name, "/work/many/%0*d", 1 + i % 60, i);
    close(open(name, O_CREAT | O_WRONLY, 0600));
  }
  DIR *d = opendir("/work/many");
  struct dirent *e;
  int n = 0, twice = 0;
  while ((e = readdir(d))) if (e->d_name[0] != '.') { int i = atoi(e->d_name); twice += seen[i]++; n++; }
  printf("%d entries, %d twice\n", n, twice);
  rewinddir(d);
  for (n = 0; (e = readdir(d));) n++;
  printf("%d with dots\n", n);
  rewinddir(d);
  long place = 0;
  char fifth[64] = "", again[64];
  for (int i = 0; i < 300; i++) { if (i == 5) place = telldir(d); e = readdir(d); if (i == 5) strcpy(fifth, e->d_name); }
  seekdir(d, place);
  strcpy(again, readdir(d)->d_name);
  printf("seekdir %s\n", strcmp(fifth, again) ? "went elsewhere" : "came back");
  closedir(d);
  int removed = 0;
  for (int i = 0; i < N; i++) {
    snprintf(name, sizeof name, "/work/many/%0*d", 1 + i % 60, i);
    removed += unlink(name) == 0;
  }
  printf("%d removed\n", removed);
  TRY(rmdir("/work/many"));
}
