/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * icmp.h: ICMP errors (RFC 792, RFC 4443) about packets of flows. An error quotes the packet that it is about,
 * as that was where it failed, and goes to whoever has sent it: it goes the way of the flow's packets in the
 * other direction. So it has the tuple of an answer to its quote, is found and sent on by that like any packet,
 * and only rewriting it is different.
 */
#ifndef SVCPROXY_ICMP_H
#define SVCPROXY_ICMP_H

#include "nat.h"

#define L3_V4_CHECK 10
#define L3_V4_ADDRESSES 12
#define L3_V6_ADDRESSES 8
#define ICMP_HEADER 8
#define ICMP_CHECK 2
#define ICMP_REDIRECT 5
#define QUOTED_PORTS 8 /* bytes of the transport header that every error has (RFC 792) */

/* The two addresses of a packet: how a tuple begins. */
struct ends {
	struct address src, dst;
};

/* Whether an ICMP message of this type quotes a packet. */
static __always_inline bool quotes_packet(__u8 type, bool v6)
{
	if (v6)
		return type >= 1 && type <= 4;
	return (type >= 3 && type <= ICMP_REDIRECT) || type == 11 || type == 12;
}

/*
 * Gives the ICMP packet in the scratch the tuple of an answer to the packet that it quotes, if it is an error
 * about one that may be translated. Global, as is all that errors need: see begin.h.
 */
__attribute__((noinline)) int read_error(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct scratch *s = bpf_map_lookup_elem(&scratch, &zero);
	struct packet *packet, *quoted;
	enum parsed parsed;
	__be16 ports[2];
	__u8 type;

	if (!s)
		return 0;
	packet = &s->packet;
	quoted = &s->quoted;
	if (bpf_skb_load_bytes(skb, packet->l4, &type, 1) || !quotes_packet(type, packet->v6))
		return 0;
	__builtin_memset(quoted, 0, sizeof(*quoted));
	quoted->l3 = packet->l4 + ICMP_HEADER;
	parsed = packet->v6 ? parse_v6(skb, quoted) : parse_v4(skb, quoted);
	if (parsed != PARSED || quoted->later_fragment || !has_ports(quoted->tuple.protocol) ||
	    quoted->l4 + QUOTED_PORTS > packet->l3 + packet->length ||
	    bpf_skb_load_bytes(skb, quoted->l4, ports, sizeof(ports)))
		return 0;
	/* An error to anybody but the sender is none, or forged. */
	if (!same_address(&quoted->tuple.src, &packet->tuple.dst))
		return 0;
	quoted->tuple.sport = ports[0];
	quoted->tuple.dport = ports[1];
	s->reporter = packet->tuple.src;
	packet->tuple.src = quoted->tuple.dst;
	packet->tuple.sport = ports[1];
	packet->tuple.dport = ports[0];
	packet->tuple.protocol = quoted->tuple.protocol;
	packet->error = true;
	packet->translatable = true;
	return 0;
}

/* Writes size bytes of the quote, and adds to *diff by how much its sum changes. */
static __always_inline long requote(struct __sk_buff *skb, __u32 offset, const void *from, const void *into, __u32 size,
				    __s64 *diff)
{
	*diff = bpf_csum_diff((__be32 *)from, size, (__be32 *)into, size, *diff);
	return bpf_skb_store_bytes(skb, offset, into, size, 0);
}

/* The same for a quoted checksum, where what it covers has changed by change. absent: zero means that there is none. */
static __always_inline long requote_check(struct __sk_buff *skb, __u32 offset, __s64 change, bool absent, __s64 *diff)
{
	__be32 from = 0, into;
	long err;

	err = bpf_skb_load_bytes(skb, offset, &from, 2);
	if (err || (absent && !from))
		return err;
	into = csum_fold(from, change);
	if (absent && !into)
		into = 0xffff;
	*diff = bpf_csum_diff(&from, 4, &into, 4, *diff);
	return bpf_skb_store_bytes(skb, offset, &into, 2, 0);
}

/* Gives the quoted transport header its new ports. addresses: by how much those have changed. */
static __always_inline long requote_transport(struct __sk_buff *skb, const struct packet *packet,
					      const struct packet *quoted, const struct tuple *quotes, __s64 addresses,
					      __s64 *diff)
{
	__u32 end = packet->l3 + packet->length, quoted_end = quoted->l3 + quoted->length;
	__be16 old_ports[2] = { quoted->tuple.sport, quoted->tuple.dport };
	__be16 ports[2] = { quotes->sport, quotes->dport };
	__u32 from, into, check;
	__s64 change;
	long err;

	__builtin_memcpy(&from, old_ports, 4);
	__builtin_memcpy(&into, ports, 4);
	change = bpf_csum_diff(&from, 4, &into, 4, addresses);
	err = requote(skb, quoted->l4, &from, &into, 4, diff);
	if (err)
		return err;
	/* Behind a short packet may come what RFC 4884 adds. */
	if (quoted_end < end)
		end = quoted_end;
	switch (quoted->tuple.protocol) {
	case IPPROTO_UDP:
		return requote_check(skb, quoted->l4 + 6, change, true, diff);
	case IPPROTO_TCP:
		return quoted->l4 + 18 > end ? 0 : requote_check(skb, quoted->l4 + 16, change, false, diff);
	}
	if (from == into || quoted->fragment || quoted->l4 + SCTP_CHECK + 4 > end)
		return 0;
	err = bpf_skb_load_bytes(skb, quoted->l4 + SCTP_CHECK, &check, 4);
	if (err || !check)
		return err;
	from ^= into;
	into = check ^ checksum_change(from, quoted_end - quoted->l4 - 4);
	return requote(skb, quoted->l4 + SCTP_CHECK, &check, &into, 4, diff);
}

/* Gives the error's own header its ends and a time to live. *diff: by how much the sum of the ends has changed. */
static __always_inline long readdress(struct __sk_buff *skb, const struct packet *packet, const struct ends *from,
				      const struct ends *into, __u8 ttl, __s64 *diff)
{
	__be32 old[2], v4[2];
	long err;

	if (packet->v6) {
		*diff = bpf_csum_diff((__be32 *)from, sizeof(*from), (__be32 *)into, sizeof(*into), 0);
		err = bpf_skb_store_bytes(skb, packet->l3 + L3_V6_HOP_LIMIT, &ttl, 1, BPF_F_RECOMPUTE_CSUM);
		if (err)
			return err;
		/* Recompute: see rewrite_v6. */
		return bpf_skb_store_bytes(skb, packet->l3 + L3_V6_ADDRESSES, into, sizeof(*into),
					   BPF_F_RECOMPUTE_CSUM);
	}
	old[0] = from->src.word[3];
	old[1] = from->dst.word[3];
	v4[0] = into->src.word[3];
	v4[1] = into->dst.word[3];
	*diff = bpf_csum_diff(old, sizeof(old), v4, sizeof(v4), 0);
	err = bpf_l3_csum_replace(skb, packet->l3 + L3_V4_CHECK, 0, *diff, 0);
	if (!err)
		err = bpf_l3_csum_replace(skb, packet->l3 + L3_V4_CHECK, bpf_htons(packet->ttl << 8),
					  bpf_htons(ttl << 8), 2);
	if (!err)
		err = bpf_skb_store_bytes(skb, packet->l3 + L3_V4_TTL, &ttl, 1, 0);
	return err ? err : bpf_skb_store_bytes(skb, packet->l3 + L3_V4_ADDRESSES, v4, sizeof(v4), 0);
}

/* Turns the error in the scratch into one about the packet s->quotes. 0, or negative errno. */
__attribute__((noinline)) int translate_error(struct __sk_buff *skb, __u32 ttl)
{
	__u32 zero = 0, check;
	struct scratch *s = bpf_map_lookup_elem(&scratch, &zero);
	const struct packet *packet, *quoted;
	const struct tuple *quotes;
	struct ends from, into;
	__s64 diff = 0, outer = 0;
	__be32 old[2], v4[2];
	__u8 type;

	if (!s)
		return -1;
	packet = &s->packet;
	quoted = &s->quoted;
	quotes = &s->quotes;
	/* A router that knows a better way knows it for the translated packet: it would lead the sender around us. */
	if (bpf_skb_load_bytes(skb, packet->l4, &type, 1) || (!packet->v6 && type == ICMP_REDIRECT))
		return -1;

	/* No sum in skb->csum changes with the quote, for the ICMP checksum makes up for it. */
	if (packet->v6) {
		from = *(const struct ends *)&quoted->tuple;
		into = *(const struct ends *)quotes;
		if (requote(skb, quoted->l3 + L3_V6_ADDRESSES, &from, &into, sizeof(from), &diff))
			return -1;
		outer = diff;
	} else {
		old[0] = quoted->tuple.src.word[3];
		old[1] = quoted->tuple.dst.word[3];
		v4[0] = quotes->src.word[3];
		v4[1] = quotes->dst.word[3];
		if (requote(skb, quoted->l3 + L3_V4_ADDRESSES, old, v4, sizeof(old), &diff))
			return -1;
		outer = diff;
		if (requote_check(skb, quoted->l3 + L3_V4_CHECK, outer, false, &diff))
			return -1;
	}
	if (requote_transport(skb, packet, quoted, quotes, outer, &diff))
		return -1;
	check = packet->l4 + ICMP_CHECK;
	if (bpf_l4_csum_replace(skb, check, 0, diff, 0))
		return -1;

	/* Who reports it need not be the end of the flow, but where that is hidden so are the routers before it. */
	from.src = s->reporter;
	from.dst = packet->tuple.dst;
	into.src = same_address(&quotes->dst, &packet->tuple.src) ? s->reporter : quotes->dst;
	into.dst = quotes->src;
	if (readdress(skb, packet, &from, &into, ttl, &outer))
		return -1;
	return packet->v6 ? bpf_l4_csum_replace(skb, check, 0, outer, BPF_F_PSEUDO_HDR) : 0;
}

#endif
