/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * begin.h: the first packet of a flow: which frontend is dialled, who may dial it, who answers, where the
 * flow's packets will be met, and the two entries that say so.
 */
#ifndef SVCPROXY_BEGIN_H
#define SVCPROXY_BEGIN_H

#include "affinity.h"
#include "flow.h"
#include "reject.h"

#define PORT_TRIES 16

/* Where a client's packets come from. */
enum origin {
	FROM_OUTSIDE, /* in by an uplink */
	FROM_POD,     /* out of a pod's link */
	FROM_HOST,    /* made by this node, out by an uplink */
};

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

static __always_inline bool in_range(const struct address *addr, const volatile struct service_range *range)
{
	return !((addr->word[0] & range->mask.word[0]) ^ range->addr.word[0]) &&
	       !((addr->word[1] & range->mask.word[1]) ^ range->addr.word[1]) &&
	       !((addr->word[2] & range->mask.word[2]) ^ range->addr.word[2]) &&
	       !((addr->word[3] & range->mask.word[3]) ^ range->addr.word[3]);
}

/* Whether ClusterIPs are allocated from a range with this address (parity ). */
static __always_inline bool is_service_address(const struct address *addr)
{
	__u32 zero = 0, i;
	const struct service_range_list *ranges = bpf_map_lookup_elem(&service_ranges, &zero);

	if (!ranges)
		return false;
	for (i = 0; i < MAX_SERVICE_RANGES; i++) {
		if (i >= ranges->count)
			break;
		if (in_range(addr, &ranges->range[i]))
			return true;
	}
	return false;
}

static __always_inline bool is_cluster_pod(const struct address *addr)
{
	return (cluster_cidrs[0].mask.word[3] && in_range(addr, &cluster_cidrs[0])) ||
	       (cluster_cidrs[1].mask.word[0] && in_range(addr, &cluster_cidrs[1]));
}

/* Four bytes, one for each FLOW_AT_*. */
static __always_inline __u8 *reply_filter_entry(const struct address *addr)
{
	__u32 index = hash_address(addr, REPLY_FILTER_BITS);

	return bpf_map_lookup_elem(&reply_filter, &index);
}

/* Whether answers from this address are met at a hook (FLOW_AT_*). */
static __always_inline bool may_be_reply(const struct address *addr, __u32 here)
{
	const __u8 *entry = reply_filter_entry(addr);

	return entry && entry[here == FLOW_AT_UPLINK_INGRESS ? 0 :
			      here == FLOW_AT_UPLINK_EGRESS  ? 1 :
			      here == FLOW_AT_POD_INGRESS    ? 2 :
							       3];
}

/* Lets the answers to a new flow through the filter of the hooks they come by. A byte is stored whole, so two CPUs
 * do not undo each other. */
static __always_inline void expect_replies(const struct flow *flow)
{
	__u8 *entry = reply_filter_entry(&flow->dst);
	int i;

	if (!entry)
		return;
	for (i = 0; i < 4; i++)
		if (flow->flags & (FLOW_AT_UPLINK_INGRESS << 4 << i) && entry[i] != 1)
			*(volatile __u8 *)&entry[i] = 1;
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

/* The pool that answers this client (DESIGN D4). */
static __always_inline __u32 pool_for(const struct frontend *frontend, const struct packet *packet, enum origin origin)
{
	bool inside = origin == FROM_HOST || (origin == FROM_POD && pods_inside) || is_cluster_pod(&packet->tuple.src);

	return inside ? frontend->inside : frontend->outside;
}

/* The node's address on a link of ours; false: it has none. */
static __always_inline bool node_address(__u32 ifindex, bool v6, struct address *addr)
{
	const struct uplink *uplink = bpf_map_lookup_elem(&uplinks, &ifindex);
	const struct pod_link *pod;

	if (uplink) {
		*addr = v6 ? uplink->snat6 : uplink->snat4;
	} else {
		pod = bpf_map_lookup_elem(&pod_links, &ifindex);
		if (!pod)
			return false;
		*addr = v6 ? pod->snat6 : pod->snat4;
	}
	return addr->word[3] || addr->word[0];
}

/*
 * Decides where the packets of a new flow will be met, and as whom the backend sees the client. Nonzero
 * verdict: the packet goes no further.
 */
static __always_inline int place_flow(struct __sk_buff *skb, const struct packet *packet, struct scratch *s,
				      enum origin origin, const struct pod_link *pod)
{
	struct flow *flow = &s->flow;
	const struct uplink *uplink;
	bool routed;
	long rc;

	rc = find_route(skb, &s->route, packet, &packet->tuple.src, &flow->dst, flow->ifindex, 0, 0);
	routed =
		rc == BPF_FIB_LKUP_RET_SUCCESS || rc == BPF_FIB_LKUP_RET_NO_NEIGH || rc == BPF_FIB_LKUP_RET_FRAG_NEEDED;

	if (pod) {
		flow->flags = FLOW_AT_POD_INGRESS | FLOW_AT_POD_EGRESS << 4;
		/* The answer is bridged straight to the client: so must this be, or netfilter sees half a flow. */
		if (routed && pod->bridge && s->route.ifindex == pod->bridge)
			flow->flags |= FLOW_BRIDGED;
		if (!same_address(&flow->dst, &flow->src))
			return 0;
		/* A pod that reaches itself: it would answer itself, so it sees the node. */
		flow->src = packet->v6 ? pod->snat6 : pod->snat4;
		flow->flags = FLOW_AT_POD_INGRESS | FLOW_AT_POD_INGRESS << 4 | FLOW_BRIDGED;
	} else if (origin == FROM_HOST) {
		flow->flags = FLOW_AT_UPLINK_EGRESS | (FLOW_AT_UPLINK_INGRESS | FLOW_AT_POD_INGRESS) << 4;
		if (rc == BPF_FIB_LKUP_RET_NOT_FWDED) {
			/* The backend is here as well. A node takes no packet of its own address from a link, so each
			 * side sees the frontend. */
			flow->flags = FLOW_LOOP | FLOW_AT_UPLINK_EGRESS | FLOW_AT_UPLINK_EGRESS << 4;
			flow->src = packet->tuple.dst;
			flow->sport = random_snat_port();
			return 0;
		}
		/* The source was chosen for another link than the packet leaves by. */
		if (!routed || s->route.ifindex == flow->ifindex)
			return 0;
		uplink = bpf_map_lookup_elem(&uplinks, &s->route.ifindex);
		if (!uplink)
			return 0;
		flow->src = packet->v6 ? uplink->snat6 : uplink->snat4;
	} else {
		uplink = routed ? bpf_map_lookup_elem(&uplinks, &s->route.ifindex) : NULL;
		flow->flags = FLOW_AT_UPLINK_INGRESS | FLOW_AT_UPLINK_EGRESS << 4;
		if (!uplink)
			return 0;
		flow->flags = FLOW_REMOTE | FLOW_AT_UPLINK_INGRESS | FLOW_AT_UPLINK_INGRESS << 4;
		flow->src = packet->v6 ? uplink->snat6 : uplink->snat4;
	}
	flow->sport = random_snat_port();
	if (!flow->src.word[3] && !flow->src.word[0]) {
		count(STAT_SNAT_NO_ADDRESS);
		return DROP;
	}
	return 0;
}

/*
 * Lets the backend see the node in the place of the client. The stack routes, and the source is rewritten
 * where the packet leaves; so is the answer's, on its way to the client. Nonzero verdict: the packet goes no further.
 */
static __always_inline int masquerade(struct __sk_buff *skb, const struct packet *packet, struct scratch *s)
{
	struct flow *flow = &s->flow;
	long rc;

	if (!same_address(&flow->src, &packet->tuple.src))
		return 0; /* it does already */
	rc = find_route(skb, &s->route, packet, &packet->tuple.src, &flow->dst, flow->ifindex, 0, 0);
	if (rc != BPF_FIB_LKUP_RET_SUCCESS && rc != BPF_FIB_LKUP_RET_NO_NEIGH && rc != BPF_FIB_LKUP_RET_FRAG_NEEDED)
		return 0; /* a process of this node: nothing leaves */
	/* A bridge is none of our links: then the link that the client is behind. */
	if (!node_address(s->route.ifindex, packet->v6, &flow->src) &&
	    !node_address(flow->ifindex, packet->v6, &flow->src)) {
		count(STAT_SNAT_NO_ADDRESS);
		return DROP;
	}
	flow->sport = random_snat_port();
	flow->flags &= FLOW_AT;
	flow->flags |= FLOW_REMOTE | FLOW_STACK | (FLOW_AT_UPLINK_INGRESS | FLOW_AT_POD_INGRESS) << 4;
	return 0;
}

/* What begin_flow returns for the first packet of a flow, which then is in the scratch. */
#define BEGUN 100

static __always_inline int refuse_packet(struct __sk_buff *skb, struct scratch *s, enum origin origin)
{
	if (origin == FROM_OUTSIDE || !is_service_address(&s->packet.tuple.dst))
		return NEXT;
	if (is_frontend_address(&s->packet.tuple.dst))
		return reject(skb, &s->packet, s, origin == FROM_HOST);
	count(STAT_PACKET_UNALLOCATED);
	return DROP;
}

/*
 * What no frontend answers for: an address that ClusterIPs are allocated from must not leak out of the node.
 * Of a Service, the port or protocol is unused; else nobody has the address (parity: where
 * packets are forwarded or made, not where they come in).
 *
 * This and begin_flow are global functions, with what they work on in the scratch: the verifier looks through
 * each once, not on every path that leads there.
 */
__attribute__((noinline)) int refuse_unserved(struct __sk_buff *skb, __u32 origin)
{
	__u32 zero = 0;
	struct scratch *s = bpf_map_lookup_elem(&scratch, &zero);

	return s ? refuse_packet(skb, s, origin) : NEXT;
}

/*
 * The packet in the scratch, which belongs to no flow: BEGUN if it is the first of a new one, because it is
 * dialled to a frontend; otherwise what to do with it.
 */
__attribute__((noinline)) int begin_flow(struct __sk_buff *skb, __u32 origin)
{
	__u32 ifindex = skb->ingress_ifindex, out = skb->ifindex, zero = 0;
	struct scratch *s = bpf_map_lookup_elem(&scratch, &zero);
	const struct pod_link *pod = NULL;
	const struct frontend *frontend;
	const struct backend *backend;
	const struct packet *packet;
	struct slot slot = {};
	struct address client;
	enum verdict verdict;
	struct flow *flow;
	__u32 random;

	if (!s)
		return NEXT;
	asm volatile("" : "+r"(ifindex), "+r"(out)); /* two reads of the context, not one of either field */
	if (origin == FROM_HOST)
		ifindex = out;
	packet = &s->packet;
	flow = &s->flow;
	client = packet->tuple.src;
	frontend = find_frontend(&packet->tuple.dst, packet->tuple.dport, packet->tuple.protocol);
	if (!frontend || frontend->flags & FRONTEND_HOST_ONLY)
		return refuse_packet(skb, s, origin);
	/* In the middle of a connection that we do not know: somebody else's, perhaps kube-proxy's. */
	if (!packet->begins)
		return NEXT;
	if (!may_dial(frontend, &client)) {
		count(STAT_PACKET_RANGE);
		return DROP;
	}
	if (origin == FROM_POD) {
		pod = bpf_map_lookup_elem(&pod_links, &ifindex);
		if (!pod)
			return NEXT;
		if (pod->netns_cookie)
			namespace_client(pod->netns_cookie, &client);
	} else if (origin == FROM_HOST) {
		namespace_client(host_netns_cookie, &client);
	}
	random = frontend->flags & FRONTEND_MAGLEV ? hash_client(&packet->tuple) : bpf_get_prandom_u32();
	backend = choose_for_client(frontend, pool_for(frontend, packet, origin), &client, packet->v6, random, &slot,
				    &verdict);
	if (!backend) {
		if (verdict == VERDICT_DROP) {
			count(STAT_PACKET_DROP);
			return DROP;
		}
		return verdict == VERDICT_REJECT ? reject(skb, packet, s, origin == FROM_HOST) : NEXT;
	}

	__builtin_memset(flow, 0, sizeof(*flow));
	flow->src = packet->tuple.src;
	flow->sport = packet->tuple.sport;
	flow->dst = backend->addr;
	flow->dport = backend->port;
	flow->service = frontend->service;
	flow->backend = slot.backend;
	flow->generation = slot.generation;
	flow->ifindex = ifindex;
	flow->nonce = bpf_get_prandom_u32();
	flow->last_seen = now();
	flow->packets = 1;
	flow->bytes = packet->length;
	if (place_flow(skb, packet, s, origin, pod))
		return DROP;
	if (masquerade_all && frontend->kind == FRONTEND_CLUSTER_IP && origin != FROM_HOST &&
	    masquerade(skb, packet, s))
		return DROP;
	if (!store_flow(packet, s))
		return DROP;
	count(STAT_FLOW_NEW);
	if (!(flow->flags & FLOW_REMOTE))
		expect_replies(flow);
	return BEGUN;
}

#endif
