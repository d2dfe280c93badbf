package bpf

import (
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// BenchmarkIngress measures what one packet costs at an uplink, beside a program that does nothing in the
// same run: over-nothing-ns is the difference. Each round translates a packet that the kernel has not
// changed back, so that "established" is the price of the lookup, the rewrite and the route.
func BenchmarkIngress(b *testing.B) {
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
	program := n.coll.Programs["ingress_l2"]

	here, away := at(f.node, nodePort), at(f.node, nodePort+1)
	n.serve(b, here, tcp, at(f.pod, 8080))
	n.serve(b, away, tcp, at(f.onC, 8080))
	local, _ := n.establish(b, f.first(tcp, 40000, here))
	remote, _ := n.establish(b, f.first(tcp, 40001, away))
	other := f.first(tcp, 40000, at(nth(f.node, 3), nodePort))
	other.ethDst = n.eth0.mac

	// Each run takes a fresh packet: the one of a repeated run would be translated already. The two
	// programs take turns, so that what else the machine does falls on both.
	turns := func(b *testing.B, frame func(int) []byte) (with, without time.Duration) {
		b.Helper()
		n.mustDo(b, func() error {
			for i := range b.N {
				opts := n.options(frame(i), n.eth0)
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
	for _, c := range []struct {
		name  string
		frame func(int) []byte
	}{
		{"not ours", func(int) []byte { return other.bytes() }},
		{"established here", func(int) []byte { return at0(n, local).bytes() }},
		{"established elsewhere", func(int) []byte { return at0(n, remote).bytes() }},
		{"new here", func(i int) []byte {
			return at0(n, f.first(tcp, uint16(i), here).from(at(nth(addr("172.16.0.0"), i>>16), uint16(i)))).bytes()
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			with, without := turns(b, c.frame)
			b.ReportMetric(float64(with-without)/float64(b.N), "over-nothing-ns/packet")
			b.ReportMetric(float64(with)/float64(without), "ratio")
		})
	}

	// Without the cost of a system call: the packet stays as it is, so it may be run again and again.
	b.Run("not ours, repeated", func(b *testing.B) {
		repeated := func(p *ebpf.Program) (spent time.Duration) {
			n.mustDo(b, func() error {
				opts := n.options(other.bytes(), n.eth0)
				opts.Repeat = uint32(b.N)
				start := time.Now()
				_, err := p.Run(opts)
				spent = time.Since(start)
				return err
			})
			return spent
		}
		without, with := repeated(nothing), repeated(program)
		b.ReportMetric(float64(with-without)/float64(b.N), "over-nothing-ns/packet")
		b.ReportMetric(float64(with)/float64(without), "ratio")
	})
}
