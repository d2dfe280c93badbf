/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* fragment.h: later fragments go the way their first fragment went. */
#ifndef SVCPROXY_FRAGMENT_H
#define SVCPROXY_FRAGMENT_H

#include "route.h"

static __always_inline void fragment_key(const struct packet *packet, bool egress, struct fragment_key *key)
{
	key->src = packet->tuple.src;
	key->dst = packet->tuple.dst;
	key->id = packet->fragment_id;
	key->protocol = packet->tuple.protocol;
	key->egress = egress;
	key->reserved[0] = 0;
	key->reserved[1] = 0;
}

/* Notes what was done to a first fragment. ifindex: the link it was redirected to, 0 if it was not. */
static __always_inline void note_fragment(const struct packet *packet, bool egress, struct flow *to, __u32 ifindex)
{
	struct fragment_key key;
	__u32 kept = to->ifindex;

	if (!packet->fragment)
		return;
	fragment_key(packet, egress, &key);
	to->ifindex = ifindex;
	bpf_map_update_elem(&fragments, &key, to, BPF_ANY);
	to->ifindex = kept;
}

/* A first fragment begins a new datagram: what an earlier one with its id did is over. */
static __always_inline void forget_fragment(const struct packet *packet, bool egress)
{
	struct fragment_key key;

	fragment_key(packet, egress, &key);
	bpf_map_delete_elem(&fragments, &key);
}

static __always_inline int follow_fragment(struct __sk_buff *skb, const struct packet *packet, bool egress,
					   struct bpf_fib_lookup *route)
{
	struct fragment_key key;
	const struct flow *to;
	bool routed;
	long rc;

	fragment_key(packet, egress, &key);
	to = bpf_map_lookup_elem(&fragments, &key);
	if (!to) {
		count(STAT_FRAGMENT_ORPHAN);
		return NEXT;
	}
	count(STAT_FRAGMENT);
	if (!to->ifindex) {
		if (rewrite(skb, packet, to))
			return DROP;
		return to->flags & FLOW_LOOP ? turn_round(skb, packet->l3) : NEXT;
	}
	/* Only between uplinks we are the router. */
	routed = to->flags & FLOW_REMOTE;
	if (routed && packet->ttl <= 1)
		return DROP; /* its first part has gone already */
	rc = find_route(skb, route, packet, &to->src, &to->dst, to->ifindex, 0, BPF_FIB_LOOKUP_OUTPUT);
	if (rc != BPF_FIB_LKUP_RET_SUCCESS && rc != BPF_FIB_LKUP_RET_NO_NEIGH)
		return DROP;
	if (routed ? rewrite_routed(skb, packet, to) : rewrite(skb, packet, to))
		return DROP;
	return redirect(route, to->ifindex);
}

#endif
