package bpf

import (
	"math"
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
	n.linkPods(b)

	here, away := at(f.node, nodePort), at(f.node, nodePort+1)
	n.serve(b, here, tcp, at(f.pod, 8080))
	n.serve(b, away, tcp, at(f.onC, 8080))
	local, localSent := n.establish(b, f.first(tcp, 40000, here))
	remote, remoteSent := n.establish(b, f.first(tcp, 40001, away))
	other := at0(n, f.first(tcp, 40000, at(nth(f.node, 3), nodePort)))
	pod := withMAC(f.first(tcp, 40000, at(f.client, 443)).from(at(f.pod, 40000)), n.pod0)
	guest := pod.from(at(nth(f.pod, 5), 40000)) // a pod that is nobody's backend
	toPod := withMAC(pod.answer(ack, 7000, 1001, "x"), n.pod0)
	dial := withMAC(f.first(tcp, 40000, clusterIP(f, 1)).from(at(f.pod, 40000)), n.pod0)
	n.serve(b, dial.dst, tcp, at(f.onC, 8080))

	sent := n.must(b, podIngress(n.pod0, dial, next, dial.to(at(f.onC, 8080)), "flow_new pod_forward"))
	answer := sent.answer(syn|ack, 7000, 1001, "")
	n.must(b, podEgress(n.pod0, answer, next, answer.from(dial.dst), "pod_reply"))
	dial.flags, dial.seq, dial.ack = ack, 1001, 7001
	n.must(b, podIngress(n.pod0, dial, next, dial.to(at(f.onC, 8080)), "flow_promoted pod_forward"))
	answer.flags = ack

	for _, c := range []struct {
		name, program string
		at            *port
		packet        packet
	}{
		{"not ours", "ingress_l2", n.eth0, other},
		{"not ours, out", "egress_l2", n.eth0, other},
		{"established here", "ingress_l2", n.eth0, at0(n, local)},
		{"established here, reply", "egress_l2", n.eth0, at0(n, localSent.answer(ack, 7001, 1002, "answer"))},
		{"established elsewhere", "ingress_l2", n.eth0, at0(n, remote)},
		{"established elsewhere, reply", "ingress_l2", n.eth1, withMAC(remoteSent.answer(ack, 7001, 1002, "answer"), n.eth1)},
		{"pod link, not ours", "pod_ingress_l2", n.pod0, guest},
		{"pod link, not ours, of a backend", "pod_ingress_l2", n.pod0, pod},
		{"pod link, not ours, to the pod", "pod_egress_l2", n.pod0, toPod},
		{"pod link, established", "pod_ingress_l2", n.pod0, dial},
		{"pod link, established, to the pod", "pod_egress_l2", n.pod0, answer},
	} {
		b.Run(c.name, func(b *testing.B) {
			frame := c.packet.bytes()
			bare, program := repeatable(b, frame, bareProgram(b)), repeatable(b, frame, n.coll.Programs[c.program])
			run := func(p *ebpf.Program, times int) (spent time.Duration) {
				n.mustDo(b, func() error {
					opts := n.options(frame, c.at)
					opts.Repeat = uint32(times)
					start := time.Now()
					_, err := p.Run(opts)
					spent = time.Since(start)
					return err
				})
				return spent
			}
			// By turns, and the fastest of each: what else the machine does only ever adds.
			const turn = 1000
			without, with := time.Duration(math.MaxInt64), time.Duration(math.MaxInt64)
			for done := 0; done < b.N; done += turn {
				without = min(without, run(bare, turn))
				with = min(with, run(program, turn))
			}
			b.ReportMetric(float64(without)/turn, "bare-ns/packet")
			b.ReportMetric(float64(with-without)/turn, "over-bare-ns/packet")
		})
	}

	b.Run("new here", func(b *testing.B) {
		var spent time.Duration
		n.mustDo(b, func() error {
			for i := range b.N {
				opts := n.options(at0(n, f.first(tcp, uint16(i), here).from(at(nth(addr("172.16.0.0"), i>>16), uint16(i)))).bytes(), n.eth0)
				start := time.Now()
				if _, err := n.coll.Programs["ingress_l2"].Run(opts); err != nil {
					return err
				}
				spent += time.Since(start)
			}
			return nil
		})
		b.ReportMetric(float64(spent)/float64(b.N), "with-system-call-ns/packet")
	})
}

// repeatable returns a program that makes the packet what it was before the last run and goes on with program.
func repeatable(b *testing.B, frame []byte, program *ebpf.Program) *ebpf.Program {
	b.Helper()
	headers := frame[:min(len(frame), 14+40+20)]
	original, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: uint32(len(headers)), MaxEntries: 1,
		Contents: []ebpf.MapKV{{Key: uint32(0), Value: headers}}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { original.Close() })
	programs, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { programs.Close() })
	if err := programs.Put(uint32(0), program); err != nil {
		b.Fatal(err)
	}
	return assemble(b, asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.Mov.Imm(asm.R2, 0),
		asm.LoadMapValue(asm.R3, original.FD(), 0),
		asm.Mov.Imm(asm.R4, int32(len(headers))),
		asm.Mov.Imm(asm.R5, 0),
		asm.FnSkbStoreBytes.Call(),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.LoadMapPtr(asm.R2, programs.FD()),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnTailCall.Call(),
		asm.Mov.Imm(asm.R0, shot),
		asm.Return(),
	})
}

// bareProgram reads the addresses and ports of a TCP packet over IPv4, as every program must that looks at
// packets, and returns.
func bareProgram(b *testing.B) *ebpf.Program {
	b.Helper()
	return assemble(b, asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, 80, asm.Word), // data_end
		asm.LoadMem(asm.R1, asm.R1, 76, asm.Word), // data
		asm.Mov.Reg(asm.R3, asm.R1),
		asm.Add.Imm(asm.R3, 38),
		asm.JGT.Reg(asm.R3, asm.R2, "out"),
		asm.LoadMem(asm.R4, asm.R1, 14, asm.Byte), // version and header length
		asm.JNE.Imm(asm.R4, 0x45, "out"),
		asm.LoadMem(asm.R4, asm.R1, 23, asm.Byte), // protocol
		asm.JNE.Imm(asm.R4, 6, "out"),
		asm.LoadMem(asm.R4, asm.R1, 26, asm.Word),
		asm.LoadMem(asm.R5, asm.R1, 30, asm.Word),
		asm.LoadMem(asm.R0, asm.R1, 34, asm.Word), // ports
		asm.Mov.Imm(asm.R0, next).WithSymbol("out"),
		asm.Return(),
	})
}

func assemble(b *testing.B, code asm.Instructions) *ebpf.Program {
	b.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: code})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { p.Close() })
	return p
}
