/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * route.h: where the kernel's routing tables send a packet, and sending it there. The fast way is straight
 * from link to link; what that cannot do goes through the stack, rewritten in two halves (DESIGN D6).
 */
#ifndef SVCPROXY_ROUTE_H
#define SVCPROXY_ROUTE_H

#include "nat.h"

#define NEXT (-1) /* TCX_NEXT and TC_ACT_UNSPEC: whoever comes after us goes on */
#define DROP 2	  /* TC_ACT_SHOT */

#define AF_INET 2
#define AF_INET6 10

/* The longest IP packet that this skb becomes on the wire. */
static __always_inline __u32 wire_length(const struct __sk_buff *skb, const struct packet *packet)
{
	return skb->gso_size ? packet->l4 - packet->l3 + packet->transport + skb->gso_size : packet->length;
}

/*
 * Asks the routing tables for the way from src to dst. With BPF_FIB_LOOKUP_OUTPUT ifindex is the link to
 * leave by, otherwise the one the packet came in by. length 0: do not compare with the MTU.
 */
static __always_inline long find_route(struct __sk_buff *skb, struct bpf_fib_lookup *route, const struct packet *packet,
				       const struct address *src, const struct address *dst, __u32 ifindex,
				       __u32 length, __u32 flags)
{
	__builtin_memset(route, 0, sizeof(*route));
	route->ifindex = ifindex;
	route->l4_protocol = packet->tuple.protocol;
	route->tot_len = length;
	if (packet->v6) {
		route->family = AF_INET6;
		__builtin_memcpy(route->ipv6_src, src, sizeof(*src));
		__builtin_memcpy(route->ipv6_dst, dst, sizeof(*dst));
	} else {
		route->family = AF_INET;
		route->ipv4_src = src->word[3];
		route->ipv4_dst = dst->word[3];
	}
	return bpf_fib_lookup(skb, route, sizeof(*route), flags);
}

/* Sends the packet, already rewritten, out of a link to the route's next hop. The neighbour is resolved
 * by the kernel if it must be. */
static __always_inline int redirect(const struct bpf_fib_lookup *route, __u32 ifindex)
{
	struct bpf_redir_neigh next_hop = { .nh_family = route->family };

	if (route->family == AF_INET)
		next_hop.ipv4_nh = route->ipv4_dst;
	else
		__builtin_memcpy(next_hop.ipv6_nh, route->ipv6_dst, sizeof(next_hop.ipv6_nh));
	return bpf_redirect_neigh(ifindex, &next_hop, sizeof(next_hop), 0);
}

static __always_inline void swap_link_addresses(struct __sk_buff *skb, __u32 l3)
{
	__u8 dst[6], src[6];

	if (l3 < 14 || bpf_skb_load_bytes(skb, 0, dst, 6) || bpf_skb_load_bytes(skb, 6, src, 6))
		return;
	bpf_skb_store_bytes(skb, 0, src, 6, 0);
	bpf_skb_store_bytes(skb, 6, dst, 6, 0);
}

/* What was leaving by this link comes in by it. */
static __always_inline int turn_round(struct __sk_buff *skb, __u32 l3)
{
	swap_link_addresses(skb, l3);
	return bpf_redirect(skb->ifindex, BPF_F_INGRESS);
}

/*
 * Finds the way for a packet of a remote flow. 0: it can be redirected; else it must take the stack:
 * too big for the way, at the end of its life (the stack answers with ICMP), or no plain route.
 */
static __always_inline long find_flow_route(struct __sk_buff *skb, struct bpf_fib_lookup *route,
					    const struct packet *packet, const struct flow *flow)
{
	__u32 length = wire_length(skb, packet);
	long rc;

	if (force_stack || flow->flags & FLOW_STACK || packet->ttl <= 1 || length > 0xffff)
		return 1;
	if (flow->flags & FLOW_REPLY)
		rc = find_route(skb, route, packet, &flow->src, &flow->dst, flow->ifindex, length,
				BPF_FIB_LOOKUP_OUTPUT);
	else
		rc = find_route(skb, route, packet, &packet->tuple.src, &flow->dst, skb->ingress_ifindex, length, 0);
	/* An answer leaves by the link that its client came by. The route may be another's: an IPv6 lookup finds it
	 * whatever link was asked for, and its next hop is nobody on ours. */
	if (flow->flags & FLOW_REPLY && (!rc || rc == BPF_FIB_LKUP_RET_NO_NEIGH) && route->ifindex != flow->ifindex)
		return 1;
	/* Without a neighbour redirect_neigh looks one up; the link is known only since 5.12, and before
	 * that ifindex stays what we put in. */
	if (rc == BPF_FIB_LKUP_RET_NO_NEIGH)
		rc = route->ifindex == skb->ingress_ifindex && !(flow->flags & FLOW_REPLY);
	return rc;
}

#endif
