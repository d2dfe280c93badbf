/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * glance.h: tells at a glance that a packet is nothing to us, as most are: three array reads, no copy, no
 * call (DESIGN D1). What it is not sure of is looked at closely.
 */
#ifndef SVCPROXY_GLANCE_H
#define SVCPROXY_GLANCE_H

#include "begin.h"

/* A packet to or from somebody. Filters err on one side only: none of ours is missed. */
struct glance {
	struct address src, dst;
	__be16 sport, dport;
};

/*
 * Reads a TCP, UDP or SCTP packet that has nothing between its IP header and its ports. false: it is not
 * one, or its headers are not where they can be read directly.
 */
static __always_inline bool glance(const struct __sk_buff *skb, __u32 l3, struct glance *g)
{
	const void *data = (const void *)(long)skb->data + l3, *end = (const void *)(long)skb->data_end;
	const struct {
		__u8 version_ihl, tos;
		__be16 length, id, fragment;
		__u8 ttl, protocol;
		__be16 check;
		__be32 src, dst;
		__be16 sport, dport;
	} *v4 = data;
	const struct {
		__be32 version_class_flow;
		__be16 payload;
		__u8 next, ttl;
		struct address src, dst;
		__be16 sport, dport;
	} *v6 = data;
	__u8 protocol;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if ((const void *)(v4 + 1) > end || v4->version_ihl != 0x45 ||
		    v4->fragment & bpf_htons(IP_MF | IP_OFFSET))
			return false;
		protocol = v4->protocol;
		set_v4(&g->src, v4->src);
		set_v4(&g->dst, v4->dst);
		g->sport = v4->sport;
		g->dport = v4->dport;
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		if ((const void *)(v6 + 1) > end)
			return false;
		protocol = v6->next;
		g->src = v6->src;
		g->dst = v6->dst;
		g->sport = v6->sport;
		g->dport = v6->dport;
	} else {
		return false;
	}
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP;
}

/* At ingress: neither dialled nor an answer. */
static __always_inline bool comes_for_others(const struct __sk_buff *skb, __u32 l3)
{
	struct glance g;

	return glance(skb, l3, &g) && !is_frontend_address(&g.dst) && !is_snat_port(g.dport) &&
	       !may_be_reply(&g.src, FLOW_AT_UPLINK_INGRESS);
}

/* From a pod: also not lost in the Service ranges. */
static __always_inline bool pod_sends_to_others(const struct __sk_buff *skb, __u32 l3)
{
	struct glance g;

	return glance(skb, l3, &g) && !is_frontend_address(&g.dst) && !is_snat_port(g.dport) &&
	       !may_be_reply(&g.src, FLOW_AT_POD_INGRESS) && !is_service_address(&g.dst);
}

/* At an uplink's egress, where the second half of a detour is told by either port. */
static __always_inline bool leaves_for_others(const struct __sk_buff *skb, __u32 l3)
{
	struct glance g;

	return glance(skb, l3, &g) && !is_frontend_address(&g.dst) && !is_snat_port(g.dport) &&
	       !is_snat_port(g.sport) && !may_be_reply(&g.src, FLOW_AT_UPLINK_EGRESS) && !is_service_address(&g.dst);
}

/* To a pod. Only masquerading lets a detour end there. */
static __always_inline bool answers_others(const struct __sk_buff *skb, __u32 l3)
{
	struct glance g;

	return glance(skb, l3, &g) && !may_be_reply(&g.src, FLOW_AT_POD_EGRESS) &&
	       !(masquerade_all && (is_snat_port(g.sport) || is_snat_port(g.dport)));
}

#endif
