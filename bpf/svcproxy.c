// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
/*
 * The table of contents: every program, by hook. bpf/README.md walks a packet through them.
 */
#include "collect.h"
#include "pod.h"
#include "socket.h"

#define ETHERNET 14 /* bytes of link-layer header */
#define NONE 0

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	return socket_connect(ctx, false);
}

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	return socket_connect(ctx, true);
}

SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *ctx)
{
	return socket_sendmsg(ctx, false);
}

SEC("cgroup/sendmsg6")
int sendmsg6(struct bpf_sock_addr *ctx)
{
	return socket_sendmsg(ctx, true);
}

SEC("cgroup/recvmsg4")
int recvmsg4(struct bpf_sock_addr *ctx)
{
	return socket_show(ctx, false, STAT_RECVMSG);
}

SEC("cgroup/recvmsg6")
int recvmsg6(struct bpf_sock_addr *ctx)
{
	return socket_show(ctx, true, STAT_RECVMSG);
}

SEC("cgroup/getpeername4")
int getpeername4(struct bpf_sock_addr *ctx)
{
	return socket_show(ctx, false, STAT_GETPEERNAME);
}

SEC("cgroup/getpeername6")
int getpeername6(struct bpf_sock_addr *ctx)
{
	return socket_show(ctx, true, STAT_GETPEERNAME);
}

SEC("tc")
int ingress_l2(struct __sk_buff *skb)
{
	return uplink_ingress(skb, ETHERNET);
}

SEC("tc")
int egress_l2(struct __sk_buff *skb)
{
	return uplink_egress(skb, ETHERNET);
}

SEC("tc")
int pod_ingress_l2(struct __sk_buff *skb)
{
	return pod_ingress(skb, ETHERNET);
}

SEC("tc")
int pod_egress_l2(struct __sk_buff *skb)
{
	return pod_egress(skb, ETHERNET);
}

SEC("tc")
int collect(struct __sk_buff *skb)
{
	return collect_flows(skb);
}

/* Types that only Go needs. */
KEEP(enum, stat);
KEEP(enum, verdict);
KEEP(enum, frontend_kind);
KEEP(enum, frontend_flag);
KEEP(enum, backend_state);
KEEP(enum, flow_flag);
KEEP(enum, socket_flag);

char LICENSE[] SEC("license") = "GPL";
