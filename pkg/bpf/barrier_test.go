package bpf

import (
	"sync"
	"testing"
)

// TestQuiesceBesideGrowth: the wait for programs disturbs nobody who writes tables meanwhile.
func TestQuiesceBesideGrowth(t *testing.T) {
	n, closeNode := makeNode(t, Options{FirstSNATPort: 61000, LastSNATPort: 61999, Features: ProbeFeatures()})
	t.Cleanup(func() {
		if err := closeNode(); err != nil {
			t.Error(err)
		}
	})
	stop := make(chan struct{})
	var waiting sync.WaitGroup
	waiting.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := n.Quiesce(); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for id := uint32(1); id < 64; id++ {
		if err := n.GrowPools(n.PoolsLen() + 1); err != nil {
			t.Fatal(err)
		}
		if n.PoolsLen() >= 1<<17 {
			break
		}
		n.SetPool(id, Pool{Offset: id, Length: 1, Verdict: VerdictServe})
	}
	close(stop)
	waiting.Wait()
	again, err := openTable[uint64](n.Datapath.Tables.maps["pools"], n.specs["pools"], maxPools)
	if err != nil {
		t.Fatal(err)
	}
	defer again.close()
	if again.len() != n.PoolsLen() || again.entries()[3] != n.Pool(3).Word() || n.Pool(3).Offset != 3 {
		t.Errorf("%d pools in the kernel, %d here; pool 3 is %x, want %x", again.len(), n.PoolsLen(), again.entries()[3], n.Pool(3).Word())
	}
}
