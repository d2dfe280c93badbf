/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * flow.h: connection state (DESIGN D8). A flow has two entries: the stub under the tuple its client sends,
 * the record under the tuple its backend answers with. A new flow's are in `embryos`, whose oldest give
 * way to new ones; both move to `flows` when the client answers the answer, which a spoofed client cannot.
 */
#ifndef SVCPROXY_FLOW_H
#define SVCPROXY_FLOW_H

#include "parse.h"

#define SECOND 1000000000ULL
/* How far a client's first acknowledgment may be beyond the SYN-ACK (TCP Fast Open data, a lost ACK). */
#define PROMOTE_WINDOW 65536

/* The tuple with which answers come to what this flow makes of a packet. */
static __always_inline void answer_tuple(const struct flow *flow, __u8 protocol, struct tuple *answer)
{
	answer->src = flow->dst;
	answer->dst = flow->src;
	answer->sport = flow->dport;
	answer->dport = flow->sport;
	answer->protocol = protocol;
	answer->reserved[0] = 0;
	answer->reserved[1] = 0;
	answer->reserved[2] = 0;
}

/* The other entry of a flow, computed from this one and its key. */
static __always_inline void mirror_flow(const struct tuple *key, const struct flow *flow, struct flow *other)
{
	*other = *flow;
	other->src = key->dst;
	other->dst = key->src;
	other->sport = key->dport;
	other->dport = key->sport;
	other->flags = (flow->flags & ~(FLOW_AT | FLOW_OTHER_AT)) ^ FLOW_REPLY;
	other->flags |= (flow->flags & FLOW_AT) << 4 | (flow->flags & FLOW_OTHER_AT) >> 4;
	other->packets = 0;
	other->bytes = 0;
}

static __always_inline void count_packet(struct flow *flow, const struct packet *packet)
{
	__u64 time = now();

	/* A second's precision is enough, and spares the cache line. */
	if (time - flow->last_seen > SECOND)
		flow->last_seen = time;
	flow->packets++;
	flow->bytes += packet->length;
	/* Whoever still sends was not reset: a forged RST must not shorten a flow's life, nor a refused
	 * attempt that of the connection that follows it from the same port. */
	if (packet->resets)
		flow->flags |= FLOW_RST;
	else if (flow->flags & FLOW_RST)
		flow->flags &= ~FLOW_RST;
	if (packet->tcp_flags & TCP_SYN)
		flow->flags &= ~(FLOW_FIN_CLIENT | FLOW_FIN_BACKEND);
	if (packet->tcp_flags & TCP_FIN)
		flow->flags |= flow->flags & FLOW_REPLY ? FLOW_FIN_BACKEND : FLOW_FIN_CLIENT;
}

/* Whether the client has answered what only a real client can have read: a sequence number, a tag; in a UDP
 * exchange, any answer. */
static __always_inline bool proves_client(const struct packet *packet, const struct flow *stub)
{
	if (!(stub->flags & FLOW_REPLIED) || packet->resets)
		return false;
	if (packet->tuple.protocol == IPPROTO_TCP)
		return (packet->tcp_flags & (TCP_ACK | TCP_SYN)) == TCP_ACK && packet->ack - stub->seq < PROMOTE_WINDOW;
	return packet->tuple.protocol == IPPROTO_UDP || packet->seq == stub->seq;
}

/* Whether the reply tuple of an embryo's stub is not meanwhile another flow's (its record was evicted). */
static __always_inline bool owns_record(const struct tuple *key, const struct flow *stub, struct tuple *answer)
{
	const struct flow *record;

	answer_tuple(stub, key->protocol, answer);
	record = bpf_map_lookup_elem(&flows, answer);
	if (!record)
		record = bpf_map_lookup_elem(&embryos, answer);
	return !record || record->nonce == stub->nonce;
}

/* How long a silent embryo keeps its source port from others: TCP as long as clients try again; a UDP exchange
 * until a late answer has become unlikely. */
static __always_inline __u64 embryo_timeout(__u8 protocol, __u32 flags)
{
	if (flags & FLOW_RST)
		return 2 * SECOND;
	if (protocol != IPPROTO_UDP)
		return 60 * SECOND;
	return flags & FLOW_REPLIED ? 10 * SECOND : 30 * SECOND;
}

/* Moves a flow from `embryos` to `flows`; leaves it where it is when that is full. room: scratch. */
static __always_inline void promote(const struct tuple *key, const struct flow *stub, struct tuple *answer,
				    struct flow *room)
{
	const struct flow *record;

	answer_tuple(stub, key->protocol, answer);
	mirror_flow(key, stub, room);
	record = bpf_map_lookup_elem(&embryos, answer);
	if (record && record->nonce == stub->nonce) {
		room->packets = record->packets;
		room->bytes = record->bytes;
		room->flags |= record->flags & (FLOW_FIN_BACKEND | FLOW_RST);
	}
	room->flags |= FLOW_ESTABLISHED | FLOW_REPLIED;
	if (bpf_map_update_elem(&flows, answer, room, BPF_NOEXIST)) {
		count(STAT_FLOW_FULL);
		return;
	}
	*room = *stub;
	room->flags |= FLOW_ESTABLISHED;
	if (bpf_map_update_elem(&flows, key, room, BPF_ANY)) {
		bpf_map_delete_elem(&flows, answer);
		count(STAT_FLOW_FULL);
		return;
	}
	bpf_map_delete_elem(&embryos, answer);
	bpf_map_delete_elem(&embryos, key);
	count(STAT_FLOW_PROMOTED);
}

/* Puts back the other half of an embryo that the LRU has evicted. */
static __always_inline void repair_embryo(const struct tuple *key, const struct flow *flow, struct tuple *answer,
					  struct flow *room)
{
	mirror_flow(key, flow, room);
	bpf_map_update_elem(&embryos, answer, room, BPF_NOEXIST);
}

/* Notes on the stub that the backend has answered, and what a real client must acknowledge. */
static __always_inline void note_answer(const struct packet *packet, const struct flow *record, struct tuple *answer,
					struct flow *room)
{
	struct flow *stub;

	answer_tuple(record, packet->tuple.protocol, answer);
	stub = bpf_map_lookup_elem(&embryos, answer);
	if (!stub) {
		repair_embryo(&packet->tuple, record, answer, room);
		stub = bpf_map_lookup_elem(&embryos, answer);
		if (!stub)
			return;
	}
	if (!packet->answers)
		return;
	stub->seq = packet->tuple.protocol == IPPROTO_TCP ? packet->seq + 1 : packet->ack;
	stub->flags |= FLOW_REPLIED;
}

static __always_inline void delete_flow(const struct tuple *key, const struct flow *flow, struct tuple *answer)
{
	answer_tuple(flow, key->protocol, answer);
	bpf_map_delete_elem(&flows, answer);
	bpf_map_delete_elem(&embryos, answer);
	bpf_map_delete_elem(&flows, key);
	bpf_map_delete_elem(&embryos, key);
}

/*
 * Whether a client packet that matches an old flow begins a new one: after the old one was closed, or where
 * its backend is gone. For UDP any packet may, for nothing else ever ends a busy UDP flow (parity 6.2).
 */
static __always_inline bool begins_anew(const struct packet *packet, const struct flow *flow)
{
	if (!packet->begins || flow->flags & FLOW_REPLY)
		return false;
	return flow->flags & (FLOW_RST | FLOW_FIN_CLIENT) || !find_kept_backend(flow->backend, flow->generation);
}

/*
 * Finds the flow of a packet that is to be met at this hook (FLOW_AT_*), counts the packet, moves the flow along, and
 * leaves a copy in s->flow. The copy, because an embryo's memory may be given to another flow at any moment.
 */
static __always_inline bool follow_flow(const struct packet *packet, struct scratch *s, __u32 here)
{
	struct flow *flow = bpf_map_lookup_elem(&flows, &packet->tuple);
	bool embryo = !flow;

	if (embryo)
		flow = bpf_map_lookup_elem(&embryos, &packet->tuple);
	if (!flow || !(flow->flags & here))
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
	/* No sign of life, and anybody can have sent it. */
	if (packet->error) {
		count(STAT_ICMP_ERROR);
		s->flow = *flow;
		return true;
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

#endif
