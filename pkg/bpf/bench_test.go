package bpf

import (
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// BenchmarkPackets measures what one packet costs at an uplink and at a pod's link, beside a program that does
// nothing in the same run: over-nothing-ns is the difference. Each round translates a packet that the kernel has not
// changed back, so that "established" is the price of the lookup, the rewrite and the route.
func BenchmarkPackets(b *testing.B) {
	n := newNode(b)
	f := families[0]
	nothing, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, next), asm.Return()},
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { nothing.Close() })
	n.linkPods(b)

	here, away := at(f.node, nodePort), at(f.node, nodePort+1)
	n.serve(b, here, tcp, at(f.pod, 8080))
	n.serve(b, away, tcp, at(f.onC, 8080))
	local, _ := n.establish(b, f.first(tcp, 40000, here))
	remote, _ := n.establish(b, f.first(tcp, 40001, away))
	other := at0(n, f.first(tcp, 40000, at(nth(f.node, 3), nodePort)))
	pod := withMAC(f.first(tcp, 40000, at(f.client, 443)).from(at(f.pod, 40000)), n.pod0)
	guest := pod.from(at(nth(f.pod, 5), 40000)) // a pod that is nobody's backend
	toPod := withMAC(pod.answer(ack, 7000, 1001, "x"), n.pod0)
	dial := withMAC(f.first(tcp, 40000, clusterIP(f, 1)).from(at(f.pod, 40000)), n.pod0)
	n.serve(b, dial.dst, tcp, at(f.onC, 8080))

	// Each run takes a fresh packet: the one of a repeated run would be translated already. The two
	// programs take turns, so that what else the machine does falls on both.
	turns := func(b *testing.B, name string, at *port, frame func(int) []byte) (with, without time.Duration) {
		b.Helper()
		program := n.coll.Programs[name]
		n.mustDo(b, func() error {
			for i := range b.N {
				opts := n.options(frame(i), at)
				start := time.Now()
				_, err := nothing.Run(opts)
				middle := time.Now()
				if err != nil {
					return err
				}
				opts.DataOut = opts.DataOut[:cap(opts.DataOut)]
				if _, err := program.Run(opts); err != nil {
					return err
				}
				without += middle.Sub(start)
				with += time.Since(middle)
			}
			return nil
		})
		return with, without
	}
	always := func(p packet) func(int) []byte { return func(int) []byte { return p.bytes() } }
	// Before the pod has dialled a frontend, and after it.
	b.Run("pod link, not ours, no flow", func(b *testing.B) {
		with, without := turns(b, "pod_egress_l2", n.pod0, always(toPod))
		b.ReportMetric(float64(with-without)/float64(b.N), "over-nothing-ns/packet")
		b.ReportMetric(float64(with)/float64(without), "ratio")
	})
	sent := n.must(b, podIngress(n.pod0, dial, next, dial.to(at(f.onC, 8080)), "flow_new pod_forward"))
	answer := sent.answer(syn|ack, 7000, 1001, "")
	n.must(b, podEgress(n.pod0, answer, next, answer.from(dial.dst), "pod_reply"))
	dial.flags, dial.seq, dial.ack = ack, 1001, 7001
	n.must(b, podIngress(n.pod0, dial, next, dial.to(at(f.onC, 8080)), "flow_promoted pod_forward"))
	answer.flags = ack
	for _, c := range []struct {
		name    string
		program string
		at      *port
		frame   func(int) []byte
	}{
		{"not ours", "ingress_l2", n.eth0, always(other)},
		{"established here", "ingress_l2", n.eth0, always(at0(n, local))},
		{"established elsewhere", "ingress_l2", n.eth0, always(at0(n, remote))},
		{"pod link, not ours", "pod_ingress_l2", n.pod0, always(guest)},
		{"pod link, not ours, of a backend", "pod_ingress_l2", n.pod0, always(pod)},
		{"pod link, not ours, to the pod", "pod_egress_l2", n.pod0, always(toPod)},
		{"pod link, established", "pod_ingress_l2", n.pod0, always(dial)},
		{"pod link, established, to the pod", "pod_egress_l2", n.pod0, always(answer)},
		{"new here", "ingress_l2", n.eth0, func(i int) []byte {
			return at0(n, f.first(tcp, uint16(i), here).from(at(nth(addr("172.16.0.0"), i>>16), uint16(i)))).bytes()
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			with, without := turns(b, c.program, c.at, c.frame)
			b.ReportMetric(float64(with-without)/float64(b.N), "over-nothing-ns/packet")
			b.ReportMetric(float64(with)/float64(without), "ratio")
		})
	}

	// Without the cost of a system call: these packets stay as they are, so they may be run again and again.
	for _, c := range []struct {
		name, program string
		at            *port
		frame         []byte
	}{
		{"not ours, repeated", "ingress_l2", n.eth0, other.bytes()},
		{"pod link, not ours, repeated", "pod_ingress_l2", n.pod0, guest.bytes()},
		{"pod link, not ours, of a backend, repeated", "pod_ingress_l2", n.pod0, pod.bytes()},
		{"pod link, not ours, to the pod, repeated", "pod_egress_l2", n.pod0, toPod.bytes()},
	} {
		b.Run(c.name, func(b *testing.B) {
			repeated := func(p *ebpf.Program) (spent time.Duration) {
				n.mustDo(b, func() error {
					opts := n.options(c.frame, c.at)
					opts.Repeat = uint32(b.N)
					start := time.Now()
					_, err := p.Run(opts)
					spent = time.Since(start)
					return err
				})
				return spent
			}
			without, with := repeated(nothing), repeated(n.coll.Programs[c.program])
			b.ReportMetric(float64(with-without)/float64(b.N), "over-nothing-ns/packet")
			b.ReportMetric(float64(with)/float64(without), "ratio")
		})
	}
}
