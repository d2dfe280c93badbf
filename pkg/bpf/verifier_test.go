package bpf

import (
	"maps"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
)

// What the verifier of 5.10 gives up at is a million instructions, and it prunes less than today's.
const verifierBudget = 250_000

// Every program leaves older verifiers room.
func TestVerifierBudget(t *testing.T) {
	for name, n := range map[string]*node{"as by default": newNode(t), "masquerade-all": newNode(t, masqueradeAll)} {
		t.Run(name, func(t *testing.T) { checkBudget(t, n) })
	}
}

func checkBudget(t *testing.T, n *node) {
	if n.destroy == nil {
		t.Error("destroy_udp was not loaded, though the kernel has bpf_sock_destroy")
	}
	programs := maps.Clone(n.coll.Programs)
	programs["destroy_udp"] = n.destroy
	for _, name := range slices.Sorted(maps.Keys(programs)) {
		verified := mustVerified(t, programs[name])
		t.Logf("%-16s %7d", name, verified)
		if verified > verifierBudget {
			t.Errorf("the verifier looks at %d instructions of %s, want at most %d", verified, name, verifierBudget)
		}
	}
	if len(programs) < 14 {
		t.Errorf("%d programs, want all of them", len(programs))
	}
}

func mustVerified(t testing.TB, p *ebpf.Program) uint32 {
	t.Helper()
	info, err := p.Info()
	if err != nil {
		t.Fatal(err)
	}
	verified, ok := info.VerifiedInstructions()
	if !ok || verified == 0 {
		t.Fatalf("%s: the kernel does not tell", info.Name)
	}
	return verified
}
