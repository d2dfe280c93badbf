package test

import "testing"

// TestAgreement: the pure model, the programs in the kernel by BPF_PROG_RUN, and real packets of real clients have one
// answer to who answers whom, on three nodes that follow one API server: for kube-proxy's own truth tables, and for
// thousands of cases by chance.
func TestAgreement(t *testing.T) {
	w := newAgreeWorld(t)
	t.Run("masquerade", w.tableMasquerade)
	t.Run("categorize", w.tableCategorize)
	t.Run("nobody", w.tableNobody)
	t.Run("random", w.testRandom)
}

func (w *agreeWorld) testRandom(t *testing.T) {
	const rounds, perRound = 4, 1200
	r := newAgreeRandom(t, w)
	t.Cleanup(func() {
		for number := range agreeServices {
			w.remove(t, agreeName(number), true)
		}
	})
	total := map[outcome]int{}
	for round := range rounds {
		r.change(t)
		w.settle(t)
		for o, n := range w.agree(t, r.cases(perRound)) {
			total[o] += n
		}
		if t.Failed() {
			t.Fatalf("in round %d", round)
		}
	}
	t.Logf("cases: %v", total)
}
