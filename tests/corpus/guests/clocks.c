#include "say.h"
#include <time.h>
int main(void) {
  struct timespec t, u;
  TRY(clock_gettime(CLOCK_REALTIME, &t));
  printf("%d\n", t.tv_sec > 1600000000);
  TRY(clock_gettime(CLOCK_MONOTONIC, &t));
  clock_gettime(CLOCK_MONOTONIC, &u);
  printf("%d %d\n", u.tv_sec > t.tv_sec || (u.tv_sec == t.tv_sec && u.tv_nsec >= t.tv_nsec), t.tv_sec < 60);
  TRY(clock_getres(CLOCK_REALTIME, &t));
  printf("%lld.%09ld\n", (long long)t.tv_sec, t.tv_nsec);
  TRY(clock_getres(CLOCK_MONOTONIC, &t));
  printf("%lld.%09ld\n", (long long)t.tv_sec, t.tv_nsec);
  printf("%d\n", time(0) > 1600000000);
}
