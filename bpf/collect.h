/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * collect.h: removes established flows that have been silent for too long. User space walks the table and
 * runs this program with the keys of candidates as its "packet"; that the decision is made here means a
 * flow that has just moved again is never removed (DESIGN D8).
 */
#ifndef SVCPROXY_COLLECT_H
#define SVCPROXY_COLLECT_H

#include "flow.h"

#define COLLECT_HEADER 16 /* an skb must begin with something like an Ethernet header */
#define COLLECT_KEYS 64

static __always_inline __u64 flow_timeout(__u8 protocol, __u32 flags)
{
	if (protocol == IPPROTO_UDP)
		return udp_timeout;
	if (flags & FLOW_RST)
		return tcp_reset_timeout;
	if ((flags & FLOW_FIN_CLIENT) && (flags & FLOW_FIN_BACKEND))
		return tcp_closed_timeout;
	if (flags & (FLOW_FIN_CLIENT | FLOW_FIN_BACKEND))
		return tcp_half_closed_timeout;
	return tcp_established_timeout;
}

static __always_inline int collect_flows(struct __sk_buff *skb)
{
	struct tuple key, answer = {};
	const struct flow *flow, *other;
	__u64 time = now(), last;
	int i, collected = 0;
	__u32 flags;

	for (i = 0; i < COLLECT_KEYS; i++) {
		if (bpf_skb_load_bytes(skb, COLLECT_HEADER + i * sizeof(key), &key, sizeof(key)))
			break;
		flow = bpf_map_lookup_elem(&flows, &key);
		if (!flow)
			continue;
		answer_tuple(flow, key.protocol, &answer);
		last = flow->last_seen;
		flags = flow->flags;
		other = bpf_map_lookup_elem(&flows, &answer);
		if (other) {
			flags |= other->flags;
			if ((__s64)(other->last_seen - last) > 0)
				last = other->last_seen;
		}
		/* Another CPU's clock reading may be ahead of ours. */
		if ((__s64)(time - last) <= (__s64)flow_timeout(key.protocol, flags))
			continue;
		bpf_map_delete_elem(&flows, &answer);
		bpf_map_delete_elem(&flows, &key);
		count(STAT_FLOW_COLLECTED);
		collected++;
	}
	return collected;
}

#endif
