/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * sctp.h: keeps an SCTP packet's CRC32c right when its ports change, without reading the payload.
 *
 * SCTP's checksum has no pseudo-header (RFC 9260, 6.8), so addresses do not matter. CRC is linear: the
 * checksums of two packets that differ in their first four bytes differ by the CRC of that difference
 * followed by zeroes, and n zero bytes multiply a CRC by x^8n modulo the polynomial.
 */
#ifndef SVCPROXY_SCTP_H
#define SVCPROXY_SCTP_H

#include "parse.h"

#define CRC32C 0x82f63b78 /* reflected: the lowest bit is the highest power */
#define SCTP_CHECK 8
/* A longer packet than IP can carry has 17 bits of length. */
#define LENGTH_BITS 16

/* The product of two polynomials modulo CRC32C. */
static __always_inline __u32 multiply(__u32 a, __u32 b)
{
	__u32 product = 0;
	int i;

	for (i = 0; i < 32; i++) {
		product ^= b & -(a >> 31);
		a <<= 1;
		b = b >> 1 ^ (CRC32C & -(b & 1));
	}
	return product;
}

/* By how much the checksum of a packet changes (exclusive or) when its first four bytes change by delta and
 * length bytes follow them. delta is as read from the packet by a little-endian machine. A global function:
 * the verifier looks through it once, not on every path that leads here. */
__attribute__((noinline)) __u32 checksum_change(__u32 delta, __u32 length)
{
	/* x^8, and in each round the square of the one before */
	__u32 power = 1U << 23, crc = delta;
	int i;

	/* Four bytes into an empty CRC: multiplied by x^32, which is four times x^8. */
	length += 4;
	for (i = 0; i < LENGTH_BITS; i++) {
		__u32 shifted = multiply(crc, power), take = -(length >> i & 1);

		crc = (shifted & take) | (crc & ~take);
		power = multiply(power, power);
	}
	return crc;
}

/* Updates the checksum for new ports. 0, or negative errno. */
static __always_inline long update_sctp_check(struct __sk_buff *skb, const struct packet *packet, __be32 from,
					      __be32 into)
{
	__u32 check, at = packet->l4 + SCTP_CHECK;
	long err;

	err = bpf_skb_load_bytes(skb, at, &check, sizeof(check));
	if (err)
		return err;
	/* Left to the network card (CHECKSUM_PARTIAL, as on a veth): zero, and to be computed over the zero. */
	if (!check)
		return 0;
	check ^= checksum_change(from ^ into, packet->length - (packet->l4 - packet->l3) - 4);
	return bpf_skb_store_bytes(skb, at, &check, sizeof(check), BPF_F_RECOMPUTE_CSUM);
}

#endif
