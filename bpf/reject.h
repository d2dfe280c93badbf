/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * reject.h: tells a client at once that nobody answers: the packet is turned into the ICMP error about
 * itself (RFC 792, RFC 4443: port unreachable) and sent back out of the link it came in by. Its source is
 * the dialled address, and so is the destination in the quote: that is what the client's kernel finds its
 * socket by.
 */
#ifndef SVCPROXY_REJECT_H
#define SVCPROXY_REJECT_H

#include "route.h"

#define IPPROTO_ICMP 1
#define IPPROTO_ICMPV6 58
#define ICMP_TTL 64

/* Bytes quoted of the transport header: eight are enough for the client, but Linux finds who
 * has sent an SCTP INIT by the tag in it. */
#define QUOTE_TRANSPORT 20
#define QUOTE_MAX (60 + QUOTE_TRANSPORT)
/* Taken off behind the link-layer header: more than lies before any transport checksum, so that the kernel sees
 * its place gone and, at the next store, that nothing is to be filled in (CHECKSUM_PARTIAL) any more: filled in
 * later, it would spoil the error's own checksum. */
#define CUT 128

struct icmp_error {
	__u8 type, code;
	__be16 check;
	__be32 unused;
};

struct icmp_packet_v4 {
	__u8 version_ihl, tos;
	__be16 length, id, fragment;
	__u8 ttl, protocol;
	__be16 check;
	__be32 src, dst;
	struct icmp_error icmp;
};
ASSERT_SIZE(icmp_packet_v4, 28);

struct icmp_packet_v6 {
	__be32 version;
	__be16 payload;
	__u8 next, ttl;
	struct address src, dst;
	struct icmp_error icmp;
};
ASSERT_SIZE(icmp_packet_v6, 48);

static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32 & 0xffff) + (sum >> 48);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~((sum & 0xffff) + (sum >> 16));
}

/* A thousand errors a second from each CPU, fifty at once: what the kernel grants itself (icmp_msgs_per_sec). */
static __always_inline bool may_send_error(struct scratch *s)
{
	__u64 time = now(), earned = (time - s->errors_since) / 1000000;

	if (earned) {
		s->errors_left = earned > 50 || s->errors_left + earned > 50 ? 50 : s->errors_left + earned;
		s->errors_since = time;
	}
	if (!s->errors_left)
		return false;
	s->errors_left--;
	return true;
}

static __always_inline bool is_icmp_error(struct __sk_buff *skb, const struct packet *packet)
{
	__u8 type;

	if (packet->tuple.protocol != IPPROTO_ICMP && packet->tuple.protocol != IPPROTO_ICMPV6)
		return false;
	if (bpf_skb_load_bytes(skb, packet->l4, &type, 1))
		return true;
	return packet->v6 ? type < 128 : type != 8 && type != 0 && type != 13 && type != 14;
}

/* Turns the packet into the error. Nonzero if it could not be done; the packet is then good for nothing. */
static __always_inline long make_error(struct __sk_buff *skb, const struct packet *packet, struct scratch *s)
{
	bool more = packet->tuple.protocol == IPPROTO_TCP || packet->tuple.protocol == IPPROTO_SCTP;
	__u32 quoted = packet->l4 - packet->l3 + (more ? QUOTE_TRANSPORT : 8);
	__u32 header = packet->v6 ? sizeof(struct icmp_packet_v6) : sizeof(struct icmp_packet_v4);
	long err;
	__s64 sum;

	if (quoted > QUOTE_MAX || quoted & 3)
		return -1;		 /* more extension headers than an error is owed for */
	asm volatile("" : "+r"(quoted)); /* the verifier wants to see the bounds on what it sees used */
	quoted &= 0x7c;
	if (quoted < 28)
		return -1;
	if (bpf_skb_change_tail(skb, packet->l3 + CUT + header + quoted, 0) ||
	    bpf_skb_load_bytes(skb, packet->l3, s->quote, quoted) ||
	    bpf_skb_adjust_room(skb, -CUT, BPF_ADJ_ROOM_MAC, 0))
		return -1;
	if (packet->v6) {
		struct icmp_packet_v6 error = {
			.version = bpf_htonl(6 << 28),
			.payload = bpf_htons(sizeof(error.icmp) + quoted),
			.next = IPPROTO_ICMPV6,
			.ttl = ICMP_TTL,
			.src = packet->tuple.dst,
			.dst = packet->tuple.src,
			.icmp = { .type = 1, .code = 4 },
		};
		/* The pseudo-header is the two addresses, the length and the protocol, in any order. */
		__be32 pseudo = bpf_htonl(sizeof(error.icmp) + quoted + IPPROTO_ICMPV6);

		sum = bpf_csum_diff(NULL, 0, (__be32 *)&error.src, 32 + sizeof(error.icmp), 0);
		sum = bpf_csum_diff(NULL, 0, &pseudo, sizeof(pseudo), sum);
		error.icmp.check = fold(bpf_csum_diff(NULL, 0, (__be32 *)s->quote, quoted, sum));
		err = bpf_skb_store_bytes(skb, packet->l3, &error, sizeof(error), BPF_F_RECOMPUTE_CSUM);
	} else {
		struct icmp_packet_v4 error = {
			.version_ihl = 0x45,
			.length = bpf_htons(sizeof(error) + quoted),
			.ttl = ICMP_TTL,
			.protocol = IPPROTO_ICMP,
			.src = packet->tuple.dst.word[3],
			.dst = packet->tuple.src.word[3],
			.icmp = { .type = 3, .code = 3 },
		};

		error.check = fold(bpf_csum_diff(NULL, 0, (__be32 *)&error, 20, 0));
		sum = bpf_csum_diff(NULL, 0, (__be32 *)&error.icmp, sizeof(error.icmp), 0);
		error.icmp.check = fold(bpf_csum_diff(NULL, 0, (__be32 *)s->quote, quoted, sum));
		err = bpf_skb_store_bytes(skb, packet->l3, &error, sizeof(error), BPF_F_RECOMPUTE_CSUM);
	}
	return err ? err : bpf_skb_store_bytes(skb, packet->l3 + header, s->quote, quoted, BPF_F_RECOMPUTE_CSUM);
}

/* Answers a packet with port unreachable, at a bounded rate. The packet is gone either way. own: it is this
 * node's, on its way out: the error comes in by the same link. */
static __always_inline int reject(struct __sk_buff *skb, const struct packet *packet, struct scratch *s, bool own)
{
	count(STAT_PACKET_REJECT);
	/* No error about an error (RFC 1122 3.2.2), a reset, or a later fragment. */
	if (packet->resets || packet->later_fragment || is_icmp_error(skb, packet) || !may_send_error(s))
		return DROP;
	if (make_error(skb, packet, s))
		return DROP;
	swap_link_addresses(skb, packet->l3);
	return bpf_redirect(skb->ifindex, own ? BPF_F_INGRESS : 0);
}

#endif
