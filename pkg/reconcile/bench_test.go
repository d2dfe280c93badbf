package reconcile

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/svcproxy/svcproxy/pkg/endpoints"
)

// large returns n Services of ten endpoints, each a ClusterIP and a NodePort.
func large(n int) []Change {
	list := make([]Change, n)
	for i := range list {
		hi, lo := byte(i>>8), byte(i)
		name := endpoints.ObjectName{Namespace: "default", Name: fmt.Sprintf("s%d", i)}
		s := &endpoints.Slice{Name: name, Service: name, Ports: []endpoints.SlicePort{{Name: "http", Protocol: endpoints.TCP, Port: 8080}}}
		for k := range 10 {
			s.Endpoints = append(s.Endpoints, endpoints.Endpoint{
				Addr: netip.AddrFrom4([4]byte{10, 128 + byte(k), hi, lo}), Ready: true, Serving: true,
			})
		}
		list[i] = Change{Name: name, Slices: []*endpoints.Slice{s}, Service: &endpoints.Service{
			Name:       name,
			ClusterIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 96, hi, lo})},
			Ports:      []endpoints.Port{{Name: "http", Protocol: endpoints.TCP, Port: 80, NodePort: uint16(1 + i)}},
		}}
	}
	return list
}

// without returns c without its first endpoint.
func without(c Change) Change {
	s := *c.Slices[0]
	s.Endpoints = s.Endpoints[1:]
	c.Slices = []*endpoints.Slice{&s}
	return c
}

var benchView = &endpoints.View{Node: "here", NodePorts: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}

func newBenchFake() *fake {
	f := newFake()
	f.readers = nil
	return f
}

func BenchmarkApplyAll(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			changes := large(n)
			b.ReportAllocs()
			for b.Loop() {
				mustApply(b, newReconciler(newBenchFake()), benchView, changes)
			}
		})
	}
}

// BenchmarkApplyOne is an endpoint that goes or comes back, with the collection that follows.
func BenchmarkApplyOne(b *testing.B) {
	for _, n := range []int{10, 10000, 50000} {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			changes := large(n)
			r := newReconciler(newBenchFake())
			mustApply(b, r, benchView, changes)
			with := []Change{changes[n/2]}
			without := []Change{without(changes[n/2])}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				change := with
				if i%2 == 0 {
					change = without
				}
				mustApply(b, r, nil, change)
				if err := r.Collect(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkRestart(b *testing.B) {
	changes, f := large(10000), newBenchFake()
	mustApply(b, newReconciler(f), benchView, changes)
	b.ReportAllocs()
	for b.Loop() {
		r := newReconciler(f)
		if err := r.Adopt(); err != nil {
			b.Fatal(err)
		}
		if res := mustApply(b, r, benchView, changes); res.Writes != 0 {
			b.Fatalf("%d writes", res.Writes)
		}
	}
}
