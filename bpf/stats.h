/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* stats.h: one counter per reason. The names, without STAT_ and in lower case, are the metric labels. */
#ifndef SVCPROXY_STATS_H
#define SVCPROXY_STATS_H

#include "maps.h"

static __always_inline void count(enum stat stat)
{
	__u32 index = stat;
	__u64 *value = bpf_map_lookup_elem(&stats, &index);

	if (value)
		(*value)++;
}

#endif
