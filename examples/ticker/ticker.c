/* Runs until it is stopped and prints a line every TICK_SECONDS (environment; 5 by default).
 *
 * Ticks are counted on the monotonic clock from the start, so they don't drift and a changed
 * wall clock doesn't disturb them.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static const long most_seconds = 86400;

/* Returns seconds between ticks, 0 when the environment asks for something else. */
static long read_period(void)
{
    const char *text = getenv("TICK_SECONDS");
    if (text == NULL) return 5;
    char *end;
    long seconds = strtol(text, &end, 10);
    return *end == '\0' && seconds >= 1 && seconds <= most_seconds ? seconds : 0;
}

int main(void)
{
    long period = read_period();
    if (period == 0) {
        fprintf(stderr, "ticker: TICK_SECONDS must be 1 to %ld\n", most_seconds);
        return EXIT_FAILURE;
    }
    struct timespec next;
    clock_gettime(CLOCK_MONOTONIC, &next);
    for (unsigned long tick = 1;; tick++) {
        char now[sizeof "1970-01-01T00:00:00Z"] = "";
        time_t seconds = time(NULL);
        struct tm utc;
        if (gmtime_r(&seconds, &utc) != NULL) strftime(now, sizeof now, "%Y-%m-%dT%H:%M:%SZ", &utc);
        printf("tick %lu at %s\n", tick, now);
        if (fflush(stdout) != 0) return EXIT_FAILURE;

        next.tv_sec += period;
        if (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL) != 0) {
            fprintf(stderr, "ticker: can't sleep\n");
            return EXIT_FAILURE;
        }
    }
}
