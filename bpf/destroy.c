// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
/*
 * Ends the connected UDP sockets whose backend is gone: nothing else would ever tell their owners, and a
 * resolver would ask a dead pod for ever (parity 6.2). An object of its own, for kernels before 6.5 have no
 * bpf_sock_destroy. Run over the UDP sockets of one network namespace by reading the iterator there.
 */
#include "lookup.h"

#define RELAXED __attribute__((preserve_access_index))

/* What we need of the kernel's types: their names. */
struct udp_sock {
} RELAXED;

struct sock_common {
	volatile unsigned char skc_state;
} RELAXED;

struct bpf_iter_meta {
	void *seq;
} RELAXED;

struct bpf_iter__udp {
	struct bpf_iter_meta *meta;
	struct udp_sock *udp_sk;
} RELAXED;

extern int bpf_sock_destroy(struct sock_common *sock) __attribute__((section(".ksyms")));

SEC("iter/udp")
int destroy_udp(struct bpf_iter__udp *ctx)
{
	struct sock_common *sock = (struct sock_common *)ctx->udp_sk;
	const struct socket_record *record;

	/* Connected now: connect(AF_UNSPEC) calls no hook, so the record cannot know. */
	if (!sock || sock->skc_state != BPF_TCP_ESTABLISHED)
		return 0;
	record = bpf_sk_storage_get(&sockets, sock, NULL, 0);
	if (!record || !(record->flags & SOCKET_CONNECTED) || find_kept_backend(record->backend, record->generation))
		return 0;
	if (!bpf_sock_destroy(sock))
		count(STAT_SOCKET_DESTROYED);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
