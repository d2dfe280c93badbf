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

#include "flow.h"
#include "fragment.h"

#define PACKET_HOST 0
#define PORT_TRIES 16

static __always_inline bool is_snat_port(__be16 port)
{
	__u16 p = bpf_ntohs(port);

	return p >= snat_first_port && p <= snat_last_port;
}

static __always_inline __be16 random_snat_port(void)
{
	return bpf_htons(snat_first_port + bpf_get_prandom_u32() % (snat_last_port - snat_first_port + 1));
}

static __always_inline bool is_frontend_address(const struct address *addr)
{
	__u32 bit = hash_address(addr, ADDRESS_FILTER_BITS), word = bit >> 6;
	const __u64 *filter = bpf_map_lookup_elem(&address_filter, &word);

	return filter && *filter & 1ULL << (bit & 63);
}

static __always_inline __u64 *reply_filter_entry(const struct address *addr)
{
	__u32 index = hash_address(addr, REPLY_FILTER_BITS);

	return bpf_map_lookup_elem(&reply_filter, &index);
}

static __always_inline bool may_be_reply(const struct address *addr)
{
	const __u64 *entry = reply_filter_entry(addr);

	return entry && *entry;
}

/* Sends a packet of a remote flow on: straight to the next link, or by the stack. */
static __always_inline int forward_remote(struct __sk_buff *skb, const struct packet *packet, struct scratch *s)
{
	struct flow *flow = &s->flow, *half = &s->room;
	bool reply = flow->flags & FLOW_REPLY;
	__u32 ifindex;

	if (!find_flow_route(skb, &s->route, packet, flow)) {
		ifindex = reply ? flow->ifindex : s->route.ifindex;
		if (rewrite(skb, packet, flow) || decrement_ttl(skb, packet))
			return DROP;
		note_fragment(packet, false, flow, ifindex);
		count(reply ? STAT_REPLY_REDIRECT : STAT_FORWARD_REDIRECT);
		return redirect(&s->route, ifindex);
	}

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

static __always_inline int forward(struct __sk_buff *skb, const struct packet *packet, struct scratch *s)
{
	if (s->flow.flags & FLOW_REMOTE)
		return forward_remote(skb, packet, s);
	if (rewrite(skb, packet, &s->flow))
		return DROP;
	note_fragment(packet, false, &s->flow, 0);
	count(STAT_FORWARD_LOCAL);
	return NEXT;
}

/*
 * Whether the record under s->answer may give way to a new flow of this packet's client: it is that very
 * client's, whose stub was evicted; or an embryo that has been silent for so long that it holds its port for nobody.
 */
static __always_inline bool may_take(const struct packet *packet, struct scratch *s)
{
	const struct flow *record, *stub;
	__u64 last;
	__u32 flags;

	record = bpf_map_lookup_elem(&embryos, &s->answer);
	if (!record)
		return false;
	answer_tuple(record, packet->tuple.protocol, &s->detour);
	if (same_tuple(&s->detour, &packet->tuple))
		return true;
	flags = record->flags;
	last = record->last_seen;
	stub = bpf_map_lookup_elem(&embryos, &s->detour);
	if (stub && stub->nonce == record->nonce) {
		flags |= stub->flags;
		if ((__s64)(stub->last_seen - last) > 0)
			last = stub->last_seen;
	}
	if ((__s64)(s->flow.last_seen - last) <= (__s64)embryo_timeout(packet->tuple.protocol, flags))
		return false;
	if (stub && stub->nonce == record->nonce)
		bpf_map_delete_elem(&embryos, &s->detour);
	return true;
}

/*
 * Stores a new flow's two entries. The record decides who owns the reply tuple: it is inserted only where
 * there is none, and when another flow has it (two frontends that lead one client port to one backend, or
 * a source port in use) the next source port is tried.
 */
static __always_inline bool store_flow(const struct packet *packet, struct scratch *s)
{
	int i;

	for (i = 0; i < PORT_TRIES; i++) {
		answer_tuple(&s->flow, packet->tuple.protocol, &s->answer);
		mirror_flow(&packet->tuple, &s->flow, &s->room);
		if (!bpf_map_lookup_elem(&flows, &s->answer) &&
		    !bpf_map_update_elem(&embryos, &s->answer, &s->room, BPF_NOEXIST)) {
			/* Between the two the other holder may have been promoted. */
			if (!bpf_map_lookup_elem(&flows, &s->answer))
				goto stored;
			bpf_map_delete_elem(&embryos, &s->answer);
		}
		if (may_take(packet, s) && !bpf_map_update_elem(&embryos, &s->answer, &s->room, BPF_ANY))
			goto stored;
		s->flow.sport = random_snat_port();
		count(STAT_SNAT_RETRY);
	}
	count(STAT_SNAT_EXHAUSTED);
	return false;
stored:
	if (!bpf_map_update_elem(&embryos, &packet->tuple, &s->flow, BPF_ANY))
		return true;
	bpf_map_delete_elem(&embryos, &s->answer);
	count(STAT_FLOW_FAILED);
	return false;
}

/* A packet that belongs to no flow: the first of a new one if it is dialled to a frontend. */
static __always_inline int begin_flow(struct __sk_buff *skb, const struct packet *packet, struct scratch *s)
{
	const struct frontend *frontend;
	const struct backend *backend;
	const struct uplink *uplink;
	struct flow *flow = &s->flow;
	struct slot slot = {};
	enum verdict verdict;
	__u64 *filter;
	long rc;

	if (packet->tuple.protocol == IPPROTO_TCP && (packet->tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST)) != TCP_SYN)
		return NEXT;
	frontend = find_frontend(&packet->tuple.dst, packet->tuple.dport, packet->tuple.protocol);
	if (!frontend || frontend->flags & FRONTEND_HOST_ONLY)
		return NEXT;
	backend = choose_backend(frontend->outside, bpf_get_prandom_u32(), &slot, &verdict);
	if (!backend) {
		if (verdict == VERDICT_DROP) {
			count(STAT_PACKET_DROP);
			return DROP;
		}
		/* The node's own stack answers for its addresses: RST or port unreachable. */
		if (verdict == VERDICT_REJECT)
			count(STAT_PACKET_REJECT);
		return NEXT;
	}

	__builtin_memset(flow, 0, sizeof(*flow));
	flow->src = packet->tuple.src;
	flow->sport = packet->tuple.sport;
	flow->dst = backend->addr;
	flow->dport = backend->port;
	flow->service = frontend->service;
	flow->backend = slot.backend;
	flow->generation = slot.generation;
	flow->ifindex = skb->ingress_ifindex;
	flow->nonce = bpf_get_prandom_u32();
	flow->last_seen = now();
	flow->packets = 1;
	flow->bytes = packet->length;

	rc = find_route(skb, &s->route, packet, &packet->tuple.src, &backend->addr, skb->ingress_ifindex, 0, 0);
	if (rc == BPF_FIB_LKUP_RET_SUCCESS || rc == BPF_FIB_LKUP_RET_NO_NEIGH || rc == BPF_FIB_LKUP_RET_FRAG_NEEDED) {
		uplink = bpf_map_lookup_elem(&uplinks, &s->route.ifindex);
		if (uplink) {
			flow->flags = FLOW_REMOTE;
			flow->src = packet->v6 ? uplink->snat6 : uplink->snat4;
			flow->sport = random_snat_port();
			if (!flow->src.word[3] && !flow->src.word[0]) {
				count(STAT_SNAT_NO_ADDRESS);
				return DROP;
			}
		}
	}
	if (!store_flow(packet, s))
		return DROP;
	count(STAT_FLOW_NEW);
	if (!(flow->flags & FLOW_REMOTE)) {
		filter = reply_filter_entry(&backend->addr);
		if (filter && *filter != 1)
			*(volatile __u64 *)filter = 1;
	}
	return forward(skb, packet, s);
}

/*
 * Finds the flow of a packet, counts the packet, moves the flow along, and leaves a copy in s->flow. The
 * copy, because an embryo's memory may be given to another flow at any moment.
 */
static __always_inline bool follow_flow(const struct packet *packet, struct scratch *s)
{
	struct flow *flow = bpf_map_lookup_elem(&flows, &packet->tuple);
	bool embryo = !flow;

	if (embryo)
		flow = bpf_map_lookup_elem(&embryos, &packet->tuple);
	if (!flow)
		return false;
	if (begins_anew(packet, flow)) {
		s->flow = *flow;
		delete_flow(&packet->tuple, &s->flow, &s->answer);
		count(STAT_FLOW_RESELECTED);
		return false;
	}
	if (embryo && !(flow->flags & FLOW_REPLY) && !owns_record(&packet->tuple, flow, &s->answer)) {
		bpf_map_delete_elem(&embryos, &packet->tuple);
		return false;
	}
	count_packet(flow, packet);
	s->flow = *flow;
	if (!embryo)
		return true;
	if (s->flow.flags & FLOW_REPLY) {
		note_answer(packet, &s->flow, &s->answer, &s->room);
	} else if (proves_client(packet, &s->flow)) {
		promote(&packet->tuple, &s->flow, &s->answer, &s->room);
	} else {
		answer_tuple(&s->flow, packet->tuple.protocol, &s->answer);
		repair_embryo(&packet->tuple, &s->flow, &s->answer, &s->room);
	}
	return true;
}

static __always_inline int uplink_ingress(struct __sk_buff *skb, __u32 l3)
{
	struct packet packet = {};
	struct scratch *s;
	__u32 zero = 0;

	if (skb->pkt_type != PACKET_HOST || skb->vlan_present)
		return NEXT;
	switch (parse(skb, l3, &packet)) {
	case PARSED:
		break;
	case PARSED_MALFORMED:
		count(STAT_PACKET_MALFORMED);
		return NEXT;
	default:
		return NEXT;
	}
	s = bpf_map_lookup_elem(&scratch, &zero);
	if (!s)
		return NEXT;
	if (packet.fragment && !packet.later_fragment)
		forget_fragment(&packet, false);
	if (packet.later_fragment)
		return follow_fragment(skb, &packet, false, &s->route);
	if (!is_frontend_address(&packet.tuple.dst) && !is_snat_port(packet.tuple.dport))
		return NEXT;
	if (!follow_flow(&packet, s))
		return begin_flow(skb, &packet, s);
	return forward(skb, &packet, s);
}

static __always_inline int uplink_egress(struct __sk_buff *skb, __u32 l3)
{
	struct packet packet = {};
	const struct flow *detour;
	struct scratch *s;
	__u32 zero = 0;

	if (skb->vlan_present)
		return NEXT;
	switch (parse(skb, l3, &packet)) {
	case PARSED:
		break;
	case PARSED_MALFORMED:
		count(STAT_PACKET_MALFORMED);
		return NEXT;
	default:
		return NEXT;
	}
	s = bpf_map_lookup_elem(&scratch, &zero);
	if (!s)
		return NEXT;
	if (packet.fragment && !packet.later_fragment)
		forget_fragment(&packet, true);
	if (packet.later_fragment)
		return follow_fragment(skb, &packet, true, &s->route);
	if (is_snat_port(packet.tuple.sport) || is_snat_port(packet.tuple.dport)) {
		detour = bpf_map_lookup_elem(&detours, &packet.tuple);
		if (detour) {
			s->flow = *detour;
			if (rewrite(skb, &packet, &s->flow))
				return DROP;
			note_fragment(&packet, true, &s->flow, 0);
			return NEXT;
		}
	}
	if (!may_be_reply(&packet.tuple.src) || !follow_flow(&packet, s) ||
	    (s->flow.flags & (FLOW_REPLY | FLOW_REMOTE)) != FLOW_REPLY)
		return NEXT;
	if (rewrite(skb, &packet, &s->flow))
		return DROP;
	note_fragment(&packet, true, &s->flow, 0);
	count(STAT_REPLY_LOCAL);
	return NEXT;
}

#endif
