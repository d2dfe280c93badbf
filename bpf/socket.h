/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * socket.h: the socket path. The destination is rewritten once, when a process names it; its packets
 * then carry the backend's address and nobody touches them again (DESIGN D5).
 *
 * The kernel calls an IPv4 hook for an AF_INET6 socket where it sends to a v4-mapped address, and an
 * IPv6 hook for what the same socket receives: records know no family.
 */
#ifndef SVCPROXY_SOCKET_H
#define SVCPROXY_SOCKET_H

#include "affinity.h"

#define ALLOW 1
#define REFUSE 0

#define SOCK_STREAM 1
#define SOCK_DGRAM 2
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define IPPROTO_MPTCP 262
#define ECONNREFUSED 111
#define RECORD_VERSION 1

/* An address and port that a process names or is shown. */
struct peer {
	struct address addr;
	__be16 port;
};

static __always_inline bool is_peer(const struct address *addr, __be16 port, const struct peer *peer)
{
	return port == peer->port && same_address(addr, &peer->addr);
}

static __always_inline void read_peer(const struct bpf_sock_addr *ctx, bool v6, struct peer *peer)
{
	if (v6) {
		peer->addr.word[0] = ctx->user_ip6[0];
		peer->addr.word[1] = ctx->user_ip6[1];
		peer->addr.word[2] = ctx->user_ip6[2];
		peer->addr.word[3] = ctx->user_ip6[3];
	} else {
		set_v4(&peer->addr, ctx->user_ip4);
	}
	peer->port = ctx->user_port;
}

static __always_inline void write_peer(struct bpf_sock_addr *ctx, bool v6, const struct address *addr, __be16 port)
{
	if (v6) {
		ctx->user_ip6[0] = addr->word[0];
		ctx->user_ip6[1] = addr->word[1];
		ctx->user_ip6[2] = addr->word[2];
		ctx->user_ip6[3] = addr->word[3];
	} else {
		ctx->user_ip4 = addr->word[3];
	}
	ctx->user_port = port;
}

/* 0 for sockets that are none of ours: raw, ping, SCTP, UDP-Lite. */
static __always_inline __u8 socket_protocol(const struct bpf_sock_addr *ctx)
{
	if (ctx->type == SOCK_STREAM && (ctx->protocol == IPPROTO_TCP || ctx->protocol == IPPROTO_MPTCP))
		return IPPROTO_TCP;
	if (ctx->type == SOCK_DGRAM && ctx->protocol == IPPROTO_UDP)
		return IPPROTO_UDP;
	return 0;
}

/*
 * In the host's own namespace all of 127.0.0.0/8, and the unspecified address that connect() takes for
 * "this host", reach the loopback NodePorts.
 */
static __always_inline void normalise_loopback(struct address *addr)
{
	if (is_v4(addr) && ((addr->word[3] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000) || !addr->word[3]))
		addr->word[3] = bpf_htonl(0x7f000001);
	else if (!addr->word[0] && !addr->word[1] && !addr->word[2] && !addr->word[3])
		addr->word[3] = bpf_htonl(1);
}

/* The frontend that a process in this socket's namespace dials, which of its pools answers it, and who it is. */
static __always_inline const struct frontend *dialled_frontend(struct bpf_sock_addr *ctx, const struct peer *peer,
							       __u32 *pool, struct address *client)
{
	__u64 cookie = bpf_get_netns_cookie(ctx);
	bool host = cookie == host_netns_cookie;
	struct address addr = peer->addr;
	const struct frontend *frontend;
	__u8 protocol = socket_protocol(ctx);

	if (!protocol)
		return NULL;
	if (host)
		normalise_loopback(&addr);
	frontend = find_frontend(&addr, peer->port, protocol);
	if (!frontend || (frontend->flags & FRONTEND_HOST_ONLY && !host))
		return NULL;
	/* To masquerade the node's own connections, nothing needs to be done: they have the node's address. */
	if (frontend->flags & FRONTEND_NO_SOCKET && !(host && !(frontend->flags & FRONTEND_RANGES)))
		return NULL;
	namespace_client(cookie, client);
	*pool = host || pods_inside ? frontend->inside : frontend->outside;
	return frontend;
}

/*
 * Makes the system call fail with ECONNREFUSED. Never EPERM or the like: kernel sockets (NFS) retry
 * those without pause. Before 5.18 the errno cannot be chosen; a closed loopback port gives the same.
 */
static __always_inline int refuse(struct bpf_sock_addr *ctx, bool v6)
{
	struct address loopback = {};

	if (have_set_retval) {
		bpf_set_retval(-ECONNREFUSED);
		return REFUSE;
	}
	if (v6 && !(ctx->user_ip6[2] == bpf_htonl(0xffff)))
		loopback.word[3] = bpf_htonl(1);
	else
		set_v4(&loopback, bpf_htonl(0x7f000001));
	write_peer(ctx, v6, &loopback, bpf_htons(1));
	return ALLOW;
}

/* To be called with the record's lock held: inlined, so that it is no call, which the verifier forbids there. */
static __always_inline void set_record(struct socket_record *record, const struct peer *peer,
				       const struct backend *backend, __u32 id, __u8 flags, __u64 time)
{
	record->version = RECORD_VERSION;
	record->flags = flags;
	record->addr = peer->addr;
	record->port = peer->port;
	record->backend_addr = backend->addr;
	record->backend_port = backend->port;
	record->backend = id;
	record->generation = backend->generation;
	record->last_used = time;
}

static __always_inline void fill_record(struct socket_record *record, const struct peer *peer,
					const struct backend *backend, __u32 id, __u8 flags)
{
	__u64 time = now();

	bpf_spin_lock(&record->lock);
	set_record(record, peer, backend, id, flags, time);
	bpf_spin_unlock(&record->lock);
}

/* Whether a UDP socket is connected now: connect(AF_UNSPEC) calls no hook, so the record cannot know. */
static __always_inline bool is_connected(const struct bpf_sock_addr *ctx)
{
	return ctx->sk && ctx->sk->state == BPF_TCP_ESTABLISHED;
}

/*
 * Takes the record of an unconnected socket for this frontend, if it is new, already this frontend's, or
 * names the same backend (its answers are then shown as coming from what was dialled last). Otherwise
 * marks it as not the only one. One critical section: another thread may be sending on this socket.
 */
static __always_inline bool claim_record(struct socket_record *record, const struct peer *peer,
					 const struct backend *backend, __u32 id, bool connected)
{
	__u64 time = now();
	bool mine;

	bpf_spin_lock(&record->lock);
	mine = !record->version ||
	       (!connected &&
		(is_peer(&record->addr, record->port, peer) ||
		 (record->backend_port == backend->port && same_address(&record->backend_addr, &backend->addr))));
	if (mine)
		set_record(record, peer, backend, id, record->flags, time);
	else
		record->flags |= SOCKET_MANY;
	bpf_spin_unlock(&record->lock);
	return mine;
}

static __always_inline int socket_connect(struct bpf_sock_addr *ctx, bool v6)
{
	const struct backend *backend = NULL;
	const struct frontend *frontend;
	struct socket_record *record;
	struct address client;
	struct slot slot = {};
	struct peer peer = {};
	enum verdict verdict = VERDICT_NONE;
	__u32 pool;

	read_peer(ctx, v6, &peer);
	frontend = dialled_frontend(ctx, &peer, &pool, &client);
	if (frontend)
		backend = choose_for_client(frontend, pool, &client, !is_v4(&peer.addr), bpf_get_prandom_u32(), &slot,
					    &verdict);

	if (backend) {
		record = bpf_sk_storage_get(&sockets, ctx->sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
		if (!record) {
			count(STAT_NO_RECORD);
			return ALLOW;
		}
		fill_record(record, &peer, backend, slot.backend, SOCKET_CONNECTED);
		write_peer(ctx, v6, &backend->addr, backend->port);
		count(STAT_CONNECT);
		return ALLOW;
	}

	/* What an earlier connect() of this socket left behind is no longer true. */
	bpf_sk_storage_delete(&sockets, ctx->sk);
	if (verdict == VERDICT_REJECT) {
		count(STAT_CONNECT_REJECT);
		return refuse(ctx, v6);
	}
	if (verdict == VERDICT_DROP)
		count(STAT_CONNECT_DROP);
	return ALLOW;
}

/* A copy of the record that no other thread is in the middle of writing. */
static __always_inline void read_record(struct socket_record *record, struct socket_record *copy)
{
	bpf_spin_lock(&record->lock);
	copy->flags = record->flags;
	copy->port = record->port;
	copy->addr = record->addr;
	copy->backend_addr = record->backend_addr;
	copy->backend_port = record->backend_port;
	copy->backend = record->backend;
	copy->generation = record->generation;
	bpf_spin_unlock(&record->lock);
}

/* The backend this socket was given for the frontend before, if it still serves. *own: says the record itself. */
static __always_inline const struct backend *remembered_backend(struct bpf_sock_addr *ctx, const struct peer *peer,
								const struct socket_record *record, __u32 *id,
								bool *own)
{
	struct socket_peer_key key = { .addr = peer->addr, .port = peer->port };
	const struct socket_peer *other;

	if (is_peer(&record->addr, record->port, peer)) {
		*id = record->backend;
		*own = true;
		return find_kept_backend(record->backend, record->generation);
	}
	if (!(record->flags & SOCKET_MANY))
		return NULL;
	key.cookie = bpf_get_socket_cookie(ctx);
	other = bpf_map_lookup_elem(&socket_peers, &key);
	if (!other)
		return NULL;
	*id = other->backend;
	return find_kept_backend(other->backend, other->generation);
}

/* Notes both directions of a frontend and its backend beside the record, which belongs to another frontend. */
static __always_inline void remember_peer(struct bpf_sock_addr *ctx, const struct peer *peer,
					  const struct backend *backend, __u32 id)
{
	struct socket_peer_key key = { .cookie = bpf_get_socket_cookie(ctx), .addr = peer->addr, .port = peer->port };
	struct socket_peer value = {
		.addr = backend->addr, .port = backend->port, .backend = id, .generation = backend->generation
	};
	const struct socket_peer *known = bpf_map_lookup_elem(&socket_peers, &key);

	if (!known || known->backend != id || known->generation != backend->generation)
		bpf_map_update_elem(&socket_peers, &key, &value, BPF_ANY);
	/* Since then another frontend may have had this backend, or somebody sent to it directly. */
	key.addr = backend->addr;
	key.port = backend->port;
	key.reply = 1;
	known = bpf_map_lookup_elem(&socket_peers, &key);
	if (known && is_peer(&known->addr, known->port, peer))
		return;
	value.addr = peer->addr;
	value.port = peer->port;
	bpf_map_update_elem(&socket_peers, &key, &value, BPF_ANY);
}

/* Dialled directly, a backend's answers must show its own address. The record is kept, empty: its flags say
 * that there are other frontends. */
static __always_inline void forget_backend(struct bpf_sock_addr *ctx, const struct peer *peer,
					   struct socket_record *record, const struct socket_record *known)
{
	struct socket_peer_key key = { .addr = peer->addr, .port = peer->port, .reply = 1 };

	if (is_connected(ctx))
		return;
	if (known->flags & SOCKET_MANY) {
		key.cookie = bpf_get_socket_cookie(ctx);
		bpf_map_delete_elem(&socket_peers, &key);
	}
	if (!is_peer(&known->backend_addr, known->backend_port, peer))
		return;
	bpf_spin_lock(&record->lock);
	record->version = 0;
	record->port = 0;
	record->backend_port = 0;
	bpf_spin_unlock(&record->lock);
}

static __always_inline int socket_sendmsg(struct bpf_sock_addr *ctx, bool v6)
{
	struct socket_record *record = bpf_sk_storage_get(&sockets, ctx->sk, NULL, 0);
	const struct backend *backend = NULL;
	const struct frontend *frontend;
	struct socket_record known = {};
	struct address client;
	enum verdict verdict;
	struct slot slot = {};
	struct peer peer = {};
	bool own = false;
	__u32 pool;

	read_peer(ctx, v6, &peer);
	if (record)
		read_record(record, &known);
	frontend = dialled_frontend(ctx, &peer, &pool, &client);
	if (!frontend) {
		if (record)
			forget_backend(ctx, &peer, record, &known);
		return ALLOW;
	}

	if (record)
		backend = remembered_backend(ctx, &peer, &known, &slot.backend, &own);
	if (!backend) {
		backend = choose_for_client(frontend, pool, &client, !is_v4(&peer.addr), bpf_get_prandom_u32(), &slot,
					    &verdict);
		if (!backend) {
			if (verdict == VERDICT_REJECT) {
				count(STAT_SENDMSG_REJECT);
				return refuse(ctx, v6);
			}
			if (verdict == VERDICT_DROP)
				count(STAT_SENDMSG_DROP);
			return ALLOW;
		}
		record = bpf_sk_storage_get(&sockets, ctx->sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
		if (!record) {
			count(STAT_NO_RECORD);
			return ALLOW;
		}
		own = false;
	}
	if (!own && !claim_record(record, &peer, backend, slot.backend, is_connected(ctx)))
		remember_peer(ctx, &peer, backend, slot.backend);
	write_peer(ctx, v6, &backend->addr, backend->port);
	count(STAT_SENDMSG);
	return ALLOW;
}

/* Shows the frontend where the kernel was about to show the backend. */
static __always_inline int socket_show(struct bpf_sock_addr *ctx, bool v6, enum stat stat)
{
	struct socket_record *record = bpf_sk_storage_get(&sockets, ctx->sk, NULL, 0);
	struct socket_record known = {};
	const struct socket_peer *other;
	struct peer peer = {};

	if (!record)
		return ALLOW;
	read_peer(ctx, v6, &peer);
	read_record(record, &known);
	if (is_peer(&known.backend_addr, known.backend_port, &peer)) {
		write_peer(ctx, v6, &known.addr, known.port);
		count(stat);
	} else if (known.flags & SOCKET_MANY) {
		struct socket_peer_key key = {
			.cookie = bpf_get_socket_cookie(ctx), .addr = peer.addr, .port = peer.port, .reply = 1
		};

		other = bpf_map_lookup_elem(&socket_peers, &key);
		if (other) {
			write_peer(ctx, v6, &other->addr, other->port);
			count(stat);
		}
	}
	return ALLOW;
}

#endif
