package endpoints

import (
	"fmt"
	"net/netip"
	"testing"
)

func benchmarkService(n int) (*Service, []*Slice) {
	svc := &Service{Name: web, ClusterIPs: mustAddrs("172.30.0.1"), Ports: []Port{{Protocol: TCP, Port: 80, NodePort: 30080}}}
	var all []*Slice
	for i := range n {
		if i%100 == 0 { // what the controller puts into one slice
			all = append(all, &Slice{Service: web, Ports: []SlicePort{{Protocol: TCP, Port: 8080}}})
		}
		s := all[len(all)-1]
		at := i * 7919 % n // slices are not sorted
		s.Endpoints = append(s.Endpoints, Endpoint{
			Addr:  netip.AddrFrom4([4]byte{10, byte(at >> 16), byte(at >> 8), byte(at)}),
			Node:  fmt.Sprint("node-", at%50),
			Ready: true, Serving: true,
			Zones: []string{"zone-" + string(rune('a'+at%3))},
		})
	}
	return svc, all
}

// A start with 50,000 Services is 50,000 of the one with 10 endpoints.
func BenchmarkResolve(b *testing.B) {
	for _, n := range []int{1, 10, 100, 1000, 10000} {
		svc, all := benchmarkService(n)
		view := &View{Node: "node-7", Zone: "zone-a", NodePorts: mustAddrs("192.168.0.1", "127.0.0.1")}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if got := Resolve(svc, all, view); len(got[0].Backends) != n {
					b.Fatalf("got %d backends", len(got[0].Backends))
				}
			}
		})
	}
}
