#include "say.h"
int main(void) {
  TRY(rename("/work/a.txt", "/work/b.txt"));
  TRY(rename("/work/a.txt", "/work/c.txt"));
  TRY(rename("/work/b.txt", "/work/d"));
  TRY(rename("/work/d", "/work/b.txt"));
  TRY(rename("/work/d", "/work/d/inside"));
  TRY(rename("/work/d", "/work/e"));
  TRY(rename("/work/e/x", "/work/x"));
  TRY(mkdir("/work/f", 0700));
  TRY(rename("/work/e", "/work/f"));
  TRY(rename("/work/x", "/work/f/x"));
  TRY(mkdir("/work/g", 0700));
  TRY(rename("/work/g", "/work/f"));
  TRY(rename("/work/b.txt", "/work/n/"));
  TRY(rename("/work/g/", "/work/h/"));
  TRY(rename("/work/.", "/work/i"));
  TRY(rename("/work/b.txt", "/work/../j"));
  TRY(rename("/work/b.txt", "/other/b.txt"));
  TRY(rename("/work/l", "/work/l2"));
  TRY(rename("/work/b.txt", "/work/b.txt"));
}
