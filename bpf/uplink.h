/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * uplink.h: the packet path at the links that lead out of the node (DESIGN D6).
 *
 * client → frontend, at ingress
 *   backend on this node: destination rewritten, up the stack; client address kept
 *   backend elsewhere:    source and destination rewritten, redirected
 *   "by the stack":       destination rewritten, up the stack, source rewritten at egress (a detour)
 * backend → client
 *   from this node:       source rewritten at egress
 *   from elsewhere:       both rewritten at ingress and redirected, or the same detour
 */
#ifndef SVCPROXY_UPLINK_H
#define SVCPROXY_UPLINK_H

#include "fragment.h"
#include "glance.h"

#define PACKET_HOST 0

/* Sends a packet of a remote flow through the stack, its second half to be rewritten where it leaves. */
static __always_inline int send_through_stack(struct __sk_buff *skb, const struct packet *packet, struct scratch *s)
{
	struct flow *flow = &s->flow, *half = &s->room;
	bool reply = flow->flags & FLOW_REPLY;

	/* Between the hooks netfilter sees client and backend, in both directions, with the port that is
	 * ours alone: so the tuple is unique, and it is what egress finds the rest by. */
	*half = *flow;
	if (reply) {
		half->src = packet->tuple.src;
		half->sport = packet->tuple.sport;
		half->dport = packet->tuple.dport;
	} else {
		half->src = packet->tuple.src;
	}
	answer_tuple(half, packet->tuple.protocol, &s->answer);
	s->detour = s->answer;
	s->detour.src = s->answer.dst;
	s->detour.dst = s->answer.src;
	s->detour.sport = s->answer.dport;
	s->detour.dport = s->answer.sport;
	if (bpf_map_update_elem(&detours, &s->detour, flow, BPF_ANY) || rewrite(skb, packet, half))
		return DROP;
	note_fragment(packet, false, half, 0);
	count(reply ? STAT_REPLY_STACK : STAT_FORWARD_STACK);
	return NEXT;
}

/* Whether the packet is on its way through the stack; the second half of its rewrite is then in s->flow. */
static __always_inline bool find_detour(const struct packet *packet, struct scratch *s)
{
	const struct flow *flow;

	if (!is_snat_port(packet->tuple.sport) && !is_snat_port(packet->tuple.dport))
		return false;
	flow = bpf_map_lookup_elem(&detours, &packet->tuple);
	if (!flow)
		return false;
	s->flow = *flow;
	return true;
}

/* Sends a packet of a remote flow on: straight to the next link, or by the stack. */
static __always_inline int forward_remote(struct __sk_buff *skb, const struct packet *packet, struct scratch *s)
{
	struct flow *flow = &s->flow;
	bool reply = flow->flags & FLOW_REPLY;
	__u32 ifindex;

	if (find_flow_route(skb, &s->route, packet, flow))
		return send_through_stack(skb, packet, s);
	ifindex = reply ? flow->ifindex : s->route.ifindex;
	if (rewrite_routed(skb, packet, flow))
		return DROP;
	note_fragment(packet, false, flow, ifindex);
	count(reply ? STAT_REPLY_REDIRECT : STAT_FORWARD_REDIRECT);
	return redirect(&s->route, ifindex);
}

static __always_inline int forward(struct __sk_buff *skb, const struct packet *packet, struct scratch *s)
{
	if (s->flow.flags & FLOW_REMOTE)
		return forward_remote(skb, packet, s);
	if (rewrite(skb, packet, &s->flow))
		return DROP;
	note_fragment(packet, false, &s->flow, 0);
	count(s->flow.flags & FLOW_REPLY ? STAT_HOST_REPLY : STAT_FORWARD_LOCAL);
	return NEXT;
}

/* What begins every packet program: the scratch with the packet in it, or NULL for what is nothing to us. */
static __always_inline struct scratch *read_packet(struct __sk_buff *skb, __u32 l3)
{
	struct scratch *s;
	enum parsed parsed;
	__u32 zero = 0;

	if (skb->vlan_present)
		return NULL; /* a VLAN link on top of this one will see it */
	s = bpf_map_lookup_elem(&scratch, &zero);
	if (!s)
		return NULL;
	__builtin_memset(&s->packet, 0, sizeof(s->packet));
	parsed = parse(skb, l3, &s->packet);
	if (parsed == PARSED_MALFORMED)
		count(STAT_PACKET_MALFORMED);
	return parsed == PARSED ? s : NULL;
}

/* A later fragment goes the way of its first; a first one begins a new datagram. true: *verdict is set. */
static __always_inline bool is_later_fragment(struct __sk_buff *skb, struct scratch *s, bool egress, int *verdict)
{
	if (!s->packet.fragment)
		return false;
	if (!s->packet.later_fragment) {
		forget_fragment(&s->packet, egress);
		return false;
	}
	*verdict = follow_fragment(skb, &s->packet, egress, &s->route);
	return true;
}

static __always_inline int uplink_ingress(struct __sk_buff *skb, __u32 l3)
{
	const struct packet *packet;
	struct scratch *s;
	int verdict;

	if (skb->pkt_type != PACKET_HOST || comes_for_others(skb, l3))
		return NEXT;
	s = read_packet(skb, l3);
	if (!s || !s->packet.translatable)
		return NEXT;
	packet = &s->packet;
	if (is_later_fragment(skb, s, false, &verdict))
		return verdict;
	if (!is_frontend_address(&packet->tuple.dst) && !is_snat_port(packet->tuple.dport) &&
	    !may_be_reply(&packet->tuple.src, FLOW_AT_UPLINK_INGRESS))
		return NEXT;
	if (!follow_flow(packet, s, FLOW_AT_UPLINK_INGRESS)) {
		verdict = begin_flow(skb, FROM_OUTSIDE);
		if (verdict != BEGUN)
			return verdict;
	}
	return forward(skb, packet, s);
}

/* Of a flow that this node has with itself: the packet comes back by the link that it was leaving by. */
static __always_inline int loop_back(struct __sk_buff *skb, const struct packet *packet, struct scratch *s)
{
	if (rewrite(skb, packet, &s->flow))
		return DROP;
	note_fragment(packet, true, &s->flow, 0);
	count(s->flow.flags & FLOW_REPLY ? STAT_HOST_REPLY : STAT_HOST_FORWARD);
	return turn_round(skb, packet->l3);
}

/* A connection of this node that no socket hook has seen (SCTP, a raw socket, one left to us): from here on
 * its packets go to the backend, wherever that is. */
static __always_inline int forward_own(struct __sk_buff *skb, const struct packet *packet, struct scratch *s)
{
	long rc;

	if (s->flow.flags & FLOW_LOOP)
		return loop_back(skb, packet, s);
	rc = find_route(skb, &s->route, packet, &packet->tuple.src, &s->flow.dst, skb->ifindex, 0, 0);
	if (rc && rc != BPF_FIB_LKUP_RET_NO_NEIGH)
		return DROP; /* the way it was going leads to nobody */
	if (rewrite(skb, packet, &s->flow))
		return DROP;
	note_fragment(packet, true, &s->flow, s->route.ifindex);
	count(STAT_HOST_FORWARD);
	return redirect(&s->route, s->route.ifindex);
}

static __always_inline int uplink_egress(struct __sk_buff *skb, __u32 l3)
{
	const struct packet *packet;
	bool known = false;
	struct scratch *s;
	int verdict;

	if (leaves_for_others(skb, l3))
		return NEXT;
	s = read_packet(skb, l3);
	if (!s)
		return NEXT;
	packet = &s->packet;
	if (!packet->translatable)
		return refuse_unserved(skb, FROM_HOST);
	if (is_later_fragment(skb, s, true, &verdict))
		return verdict;
	if (find_detour(packet, s)) {
		if (rewrite(skb, packet, &s->flow))
			return DROP;
		note_fragment(packet, true, &s->flow, 0);
		return NEXT;
	}
	if (may_be_reply(&packet->tuple.src, FLOW_AT_UPLINK_EGRESS))
		known = follow_flow(packet, s, FLOW_AT_UPLINK_EGRESS);
	if (known && s->flow.flags & FLOW_REPLY) {
		if (s->flow.flags & FLOW_LOOP)
			return loop_back(skb, packet, s);
		if (rewrite(skb, packet, &s->flow))
			return DROP;
		note_fragment(packet, true, &s->flow, 0);
		count(STAT_REPLY_LOCAL);
		return NEXT;
	}
	if (!is_frontend_address(&packet->tuple.dst))
		return refuse_unserved(skb, FROM_HOST);
	/* Forwarded: it has been seen where it came in, where an unused port is not refused to outside clients. */
	if (skb->ingress_ifindex)
		return find_frontend(&packet->tuple.dst, packet->tuple.dport, packet->tuple.protocol) ?
			       NEXT :
			       refuse_unserved(skb, FROM_HOST);
	if (!known && !follow_flow(packet, s, FLOW_AT_UPLINK_EGRESS)) {
		verdict = begin_flow(skb, FROM_HOST);
		if (verdict != BEGUN)
			return verdict;
	}
	return forward_own(skb, packet, s);
}

#endif
