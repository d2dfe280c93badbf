package bpf

import (
	"testing"
	"time"
)

// A backend that refuses, and accepts the next attempt from the same client port: the connection lives as
// long as any other.
func TestResetByBackendIsForgotten(t *testing.T) {
	forEach(t, []uint8{tcp}, func(t *testing.T, n *node, f family, _ uint8) {
		frontend, backend := at(f.node, nodePort), at(f.pod, 8080)
		n.serve(t, frontend, tcp, backend)
		in := f.first(tcp, 40000, frontend)
		sent := n.must(t, ingress(n.eth0, in, next, in.to(backend), "flow_new forward_local"))
		reply := sent.answer(rst|ack, 0, 1001, "")
		n.must(t, egress(n.eth0, reply, next, reply.from(frontend), "reply_local"))

		n.run(t, "ingress_l2", n.eth0, at0(n, in).bytes(), 0)
		reply = sent.answer(syn|ack, 7000, 1001, "")
		n.must(t, egress(n.eth0, reply, next, reply.from(frontend), "reply_local"))
		in.flags, in.ack = ack, 7001
		n.must(t, ingress(n.eth0, in, next, in.to(backend), "flow_promoted forward_local"))
		n.mustBeIn(t, "flows", in, sent)

		n.age(t, time.Minute, in.tuple(), reply.tuple())
		n.mustCollect(t, 0)
		n.mustBeIn(t, "flows", in, sent)
	})
}
