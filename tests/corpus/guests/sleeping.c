#include "say.h"
#include <poll.h>
#include <time.h>
static long long now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000000000LL + t.tv_nsec; }
int main(void) {
  long long start = now();
  TRY(usleep(20000));
  long long took = now() - start;
  printf("%d\n", took >= 20000000 && took < 2000000000);
  start = now();
  struct timespec later = {0, 30000000};
  TRY(clock_nanosleep(CLOCK_REALTIME, 0, &later, 0));
  took = now() - start;
  printf("%d\n", took >= 30000000 && took < 2000000000);
  clock_gettime(CLOCK_MONOTONIC, &later);
  later.tv_nsec += 10000000;
  if (later.tv_nsec >= 1000000000) { later.tv_nsec -= 1000000000; later.tv_sec++; }
  TRY(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &later, 0));
  clock_gettime(CLOCK_REALTIME, &later);
  later.tv_sec -= 10;
  TRY(clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &later, 0));
  struct pollfd in = {0, POLLIN, 0}, out = {1, POLLOUT, 0};
  TRY(poll(&out, 1, 1000));
  printf("%d\n", out.revents);
  TRY(poll(&in, 1, 1000));
  printf("%d\n", in.revents);
  TRY(poll(0, 0, 10));
}
