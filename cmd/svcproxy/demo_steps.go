package main

import (
	"context"
	"fmt"
)

// section is a part of the story: what is done first, who is asked then, and what must come of it.
type section struct {
	title, why string
	first      func(context.Context, *demo) error
	requests   []request
}

// request is one that is made several times: from a host, to a frontend. All of want must answer, and
// nobody else; if want is empty, it must be refused at once.
type request struct {
	from, network, frontend string
	want                    []exchange
}

// exchange is a host that answered, and the host that it saw as its client.
type exchange struct{ backend, client string }

// both is answered by either pod behind the Service.
func both(client string) []exchange { return []exchange{{"pod-a1", client}, {"pod-b1", client}} }

// fromOutside is what client-1 gets at a NodePort of node-a.
var fromOutside = []exchange{{"pod-a1", "client-1"}, {"pod-b1", "node-a"}}

var story = []section{
	{
		title: "1  ClusterIP: an address that no machine has",
		why: `The agent's programs replace it by a pod's address when a socket connects or sends. After that no
packet is touched: the pod is talked to directly, and sees its client as it is.`,
		requests: []request{
			{"pod-a2", "tcp", "10.96.0.10:80", both("pod-a2")},
			{"pod-a2", "udp", "10.96.0.10:80", both("pod-a2")},
			{"pod-a2", "tcp", "[fd96::10]:80", both("pod-a2")},
			{"node-a", "tcp", "10.96.0.10:80", both("node-a")},
			{"node-a", "udp", "[fd96::10]:80", both("node-a")},
		},
	},
	{
		title: "2  NodePort: from outside, at any node's address",
		why: `Packets are translated at the node's link. A pod of that node sees the client as it is. For a pod of
another node the node puts its own address there, so that the answer comes back through it.`,
		requests: []request{
			{"client-1", "tcp", "172.30.0.11:30080", fromOutside},
			{"client-1", "udp", "172.30.0.11:30080", fromOutside},
			{"client-1", "tcp", "[fd30::11]:30080", fromOutside},
			{"client-1", "tcp", "172.30.0.12:30080", []exchange{{"pod-a1", "node-b"}, {"pod-b1", "client-1"}}},
		},
	},
	{
		title: "3  NodePort at localhost: from processes of the node",
		why:   `As in 1: replaced when the socket connects, so nothing has to be rewritten on the loopback link.`,
		requests: []request{
			{"node-a", "tcp", "127.0.0.1:30080", both("node-a")},
			{"node-a", "tcp", "[::1]:30080", both("node-a")},
		},
	},
	{
		title: "4  A backend goes away: pod-b1 is taken out of the EndpointSlices",
		why:   `One atomic store in the kernel, and new requests go to those that are left.`,
		first: setBackends("pod-a1"),
		requests: []request{
			{"pod-a2", "tcp", "10.96.0.10:80", []exchange{{"pod-a1", "pod-a2"}}},
			{"pod-a2", "udp", "[fd96::10]:80", []exchange{{"pod-a1", "pod-a2"}}},
			{"client-1", "tcp", "172.30.0.12:30080", []exchange{{"pod-a1", "node-b"}}},
		},
	},
	{
		title: "5  The last one goes too",
		why:   `Clients are told so at once, instead of waiting for an answer that will not come.`,
		first: setBackends(),
		requests: []request{
			{"pod-a2", "tcp", "10.96.0.10:80", nil},
			{"pod-a2", "tcp", "[fd96::10]:80", nil},
			{"node-a", "tcp", "127.0.0.1:30080", nil},
			{"client-1", "tcp", "172.30.0.11:30080", nil},
		},
	},
	{
		title: "6  The agent of node-a is killed (kill -9) while requests are made, and comes back",
		why: `Programs and tables stay in the kernel, so nobody notices. The agent that comes back finds them as
they should be, and has nothing to write.`,
		first: killAgent,
	},
}

// setBackends is a change of the manifests.
func setBackends(pods ...string) func(context.Context, *demo) error {
	return func(ctx context.Context, d *demo) error {
		took, err := d.setBackends(ctx, pods...)
		if err != nil {
			return err
		}
		d.out.line("Written as YAML, and in the kernel of both nodes after %d ms.", took.Milliseconds())
		return nil
	}
}

// tell tells the story. An error ends it; answers that are wrong are shown as such.
func (d *demo) tell(ctx context.Context) error {
	d.introduce()
	for _, s := range story {
		d.out.section(s.title, s.why)
		if s.first != nil {
			if err := s.first(ctx, d); err != nil {
				return fmt.Errorf("%s: %w", s.title, err)
			}
		}
		if len(s.requests) > 0 {
			d.out.head("FROM", "ASKS", "ANSWERED BY", "WHO SAW THE CLIENT AS")
		}
		for _, r := range s.requests {
			o := d.ask(ctx, r)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			d.show(r, o)
		}
	}
	return nil
}

func (d *demo) introduce() {
	d.out.line(`
  client-1 %s --+-- node-a %s --+-- pod-a1 %s   behind the Service
                          |                        +-- pod-a2 %s   a client
                          +-- node-b %s --+-- pod-b1 %s   behind the Service
                                                   +-- pod-b2 %s

  Service demo/web   ClusterIP 10.96.0.10 and fd96::10, port 80, TCP and UDP; NodePort 30080`,
		d.Clients[0].IPv4, d.Nodes[0].IPv4, d.Nodes[0].Pods[0].IPv4, d.Nodes[0].Pods[1].IPv4,
		d.Nodes[1].IPv4, d.Nodes[1].Pods[0].IPv4, d.Nodes[1].Pods[1].IPv4)
}
