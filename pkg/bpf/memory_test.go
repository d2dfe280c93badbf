package bpf

import "testing"

// TestMapMemory: the buckets of a hash are there from the beginning, for all the entries it may ever have, so
// its limit is paid for by nodes that never come near it.
func TestMapMemory(t *testing.T) {
	n, closeNode := makeNode(t, Options{FirstSNATPort: 61000, LastSNATPort: 61999, Features: ProbeFeatures()})
	t.Cleanup(func() {
		if err := closeNode(); err != nil {
			t.Error(err)
		}
	})
	var sum uint64
	for name, m := range n.Datapath.Tables.maps {
		info, err := m.Info()
		if err != nil {
			t.Fatal(err)
		}
		memory, _ := info.Memlock() // a trie without entries takes none
		sum += memory
		t.Logf("%-16s %6.2f MiB", name, float64(memory)/(1<<20))
	}
	if sum > 54<<20 {
		t.Errorf("maps without entries take %d MiB, want 54 at most", sum>>20)
	}
}
