package reconcile

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/svcproxy/svcproxy/pkg/bpf"
	"github.com/svcproxy/svcproxy/pkg/endpoints"
)

func maglevOf(n int, without int) []int {
	var backends []int
	for i := range n {
		if i != without {
			backends = append(backends, i)
		}
	}
	return maglev(backends, func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 8080)
	})
}

// A Service that asks for it gets a table in its pools and the flag on its frontends; back again, each backend one slot.
func TestMaglevService(t *testing.T) {
	f := newFake()
	f.readers = nil // who would look after each of a table's slots
	r := newReconciler(f)
	for _, c := range []struct {
		balancing endpoints.Balancing
		slots     uint32
		flag      bool
	}{{endpoints.Default, 2, false}, {endpoints.Maglev, 16381, true}, {endpoints.Random, 2, false}} {
		change := web(1, 2)
		change.Service.Balancing = c.balancing
		mustApply(t, r, nil, []Change{change})
		mustCollect(t, r)
		for k, v := range f.frontends {
			if pool := f.pools[v.Inside]; pool.Length != c.slots || v.Flags&bpf.FlagMaglev != 0 != c.flag {
				t.Errorf("%s: frontend %v has %d slots, flags %#x, want %d slots, Maglev %t", c.balancing, k.AddrPort(), pool.Length, v.Flags, c.slots, c.flag)
			}
		}
		f.check(t)
	}
}

// Every backend has its share, and few others' slots move with one that goes.
func TestMaglev(t *testing.T) {
	for _, n := range []int{2, 3, 10, 100, 1000, 5000} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			table := maglevOf(n, -1)
			share := make(map[int]int)
			for _, b := range table {
				share[b]++
			}
			for b, slots := range share {
				if fair := len(table) / n; slots < fair || slots > fair+1 {
					t.Errorf("backend %d has %d of %d slots", b, slots, len(table))
				}
			}
			gone := n / 2
			moved := 0
			for i, b := range maglevOf(n, gone) {
				if i < len(table) && table[i] != gone && table[i] != b {
					moved++
				}
			}
			if most := len(table) * 2 / 100; moved > most {
				t.Errorf("with backend %d %d slots of others moved of %d, want at most %d", gone, moved, len(table), most)
			}
			t.Logf("%d slots, %d of others moved", len(table), moved)
		})
	}
}
