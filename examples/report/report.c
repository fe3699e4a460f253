/* Prints what the sensor example's volume holds, a line per sensor, and ends.
 *
 * Exits 0 when there were readings, else 1, so that a Job without data counts as failed.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../sensor/stats.h"
#include "../sensor/store.h"

enum { MOST_SENSORS = 64 };

struct report {
    size_t readings, others, sensors;
    struct stats stats[MOST_SENSORS];
};

static void add(const struct reading *reading, void *context)
{
    struct report *report = context;
    size_t i = 0;
    report->readings++;
    while (i < report->sensors && strcmp(report->stats[i].last.sensor, reading->sensor) != 0) i++;
    if (i == MOST_SENSORS) {
        report->others++;
        return;
    }
    if (i == report->sensors) report->sensors++;
    stats_add(&report->stats[i], reading);
}

int main(void)
{
    static struct report report;
    size_t damaged;
    int error = store_scan(add, &report, &damaged);
    if (error != 0) {
        fprintf(stderr, "report: /data: %s; mount the sensor app's volume there\n",
                strerror(error));
        return EXIT_FAILURE;
    }
    if (report.readings == 0) {
        fprintf(stderr, "report: no readings yet; post some to the sensor app\n");
        return EXIT_FAILURE;
    }
    printf("%-32s %8s %12s %12s %12s %12s %12s\n", "sensor", "count", "min", "max", "mean",
           "stddev", "last");
    for (const struct stats *s = report.stats; s < report.stats + report.sensors; s++) {
        printf("%-32s %8zu %12.6g %12.6g %12.6g %12.6g %12.6g\n", s->last.sensor, s->count, s->min,
               s->max, s->mean, stats_deviation(s), s->last.value);
    }
    printf("%zu readings of %zu sensors", report.readings, report.sensors);
    if (report.others > 0) printf(", %zu readings of further sensors left out", report.others);
    if (damaged > 0) printf(", %zu damaged records skipped", damaged);
    printf("\n");
    return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
