/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * pod.h: the packet path at the links that lead to pods, for what no socket hook sees (DESIGN D7): guests,
 * processes outside of the hooked cgroup, raw sockets, SCTP. Both directions of a flow are rewritten on the
 * client's own link, so nothing is needed at the backend.
 */
#ifndef SVCPROXY_POD_H
#define SVCPROXY_POD_H

#include "uplink.h"

/* On by us, instead of by the stack: to the pod's neighbour on its bridge, or back to the pod itself. */
static __always_inline int send_bridged(struct __sk_buff *skb, const struct packet *packet, struct scratch *s)
{
	long rc = find_route(skb, &s->route, packet, &s->flow.src, &s->flow.dst, skb->ingress_ifindex, 0, 0);

	if (rc && rc != BPF_FIB_LKUP_RET_NO_NEIGH)
		return DROP;
	if (rewrite(skb, packet, &s->flow))
		return DROP;
	note_fragment(packet, false, &s->flow, s->route.ifindex);
	return redirect(&s->route, s->route.ifindex);
}

/* Packets that a pod sends. */
static __always_inline int pod_ingress(struct __sk_buff *skb, __u32 l3)
{
	const struct packet *packet;
	struct scratch *s;
	int verdict;

	if (pod_sends_to_others(skb, l3))
		return NEXT;
	s = read_packet(skb, l3);
	if (!s)
		return NEXT;
	packet = &s->packet;
	if (!packet->translatable)
		return refuse_unserved(skb, FROM_POD);
	if (is_later_fragment(skb, s, false, &verdict))
		return verdict;
	if (!is_frontend_address(&packet->tuple.dst) && !is_snat_port(packet->tuple.dport) &&
	    !may_be_reply(&packet->tuple.src, FLOW_AT_POD_INGRESS))
		return refuse_unserved(skb, FROM_POD);
	if (!follow_flow(packet, s, FLOW_AT_POD_INGRESS)) {
		verdict = begin_flow(skb, FROM_POD);
		if (verdict != BEGUN)
			return verdict;
	}
	if (s->flow.flags & FLOW_STACK)
		return send_through_stack(skb, packet, s);
	count(s->flow.flags & FLOW_REPLY ? STAT_HOST_REPLY : STAT_POD_FORWARD);
	if (s->flow.flags & FLOW_BRIDGED)
		return send_bridged(skb, packet, s);
	if (rewrite(skb, packet, &s->flow))
		return DROP;
	note_fragment(packet, false, &s->flow, 0);
	return NEXT;
}

/* Packets that a pod gets. */
static __always_inline int pod_egress(struct __sk_buff *skb, __u32 l3)
{
	const struct packet *packet;
	struct scratch *s;
	int verdict;

	if (answers_others(skb, l3))
		return NEXT;
	s = read_packet(skb, l3);
	if (!s || !s->packet.translatable)
		return NEXT;
	packet = &s->packet;
	if (is_later_fragment(skb, s, true, &verdict))
		return verdict;
	if (find_detour(packet, s)) {
		if (rewrite(skb, packet, &s->flow))
			return DROP;
		note_fragment(packet, true, &s->flow, 0);
		return NEXT;
	}
	if (!follow_flow(packet, s, FLOW_AT_POD_EGRESS))
		return NEXT;
	if (rewrite(skb, packet, &s->flow))
		return DROP;
	note_fragment(packet, true, &s->flow, 0);
	count(STAT_POD_REPLY);
	return NEXT;
}

#endif
