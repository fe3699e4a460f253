/* Running statistics in one pass and constant memory (Welford's method). */
#ifndef STATS_H
#define STATS_H

#include <math.h>
#include <stddef.h>

#include "store.h"

struct stats {
    size_t count;
    double min, max, mean;
    double squares; /* sum of squared distances from the mean */
    struct reading last;
};

static inline void stats_add(struct stats *stats, const struct reading *reading)
{
    double value = reading->value;
    if (stats->count == 0 || value < stats->min) stats->min = value;
    if (stats->count == 0 || value > stats->max) stats->max = value;
    stats->count++;
    double distance = value - stats->mean;
    stats->mean += distance / (double)stats->count;
    stats->squares += distance * (value - stats->mean);
    stats->last = *reading;
}

/* The sample's standard deviation; 0 for fewer than two readings. */
static inline double stats_deviation(const struct stats *stats)
{
    return stats->count < 2 ? 0 : sqrt(stats->squares / (double)(stats->count - 1));
}

#endif
