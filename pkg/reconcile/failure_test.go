package reconcile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/svcproxy/svcproxy/pkg/bpf"
	"github.com/svcproxy/svcproxy/pkg/endpoints"
)

// web returns a Service with that many endpoints.
func web(i, n int) Change {
	c := Change{Name: endpoints.ObjectName{Namespace: "default", Name: fmt.Sprintf("web%d", i)}}
	c.Service = &endpoints.Service{
		Name:       c.Name,
		ClusterIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 96, 1, byte(i)})},
		Ports:      []endpoints.Port{{Name: "http", Protocol: endpoints.TCP, Port: 80}},
	}
	s := &endpoints.Slice{Name: c.Name, Service: c.Name, Ports: []endpoints.SlicePort{{Name: "http", Protocol: endpoints.TCP, Port: 8080}}}
	for k := range n {
		s.Endpoints = append(s.Endpoints, endpoints.Endpoint{
			Addr: netip.AddrFrom4([4]byte{10, 100 + byte(i), byte(k >> 8), byte(k)}), Ready: true, Serving: true,
		})
	}
	c.Slices = []*endpoints.Slice{s}
	return c
}

func TestFull(t *testing.T) {
	f := newFake()
	f.limit = 1500
	r := newReconciler(f)
	mustApply(t, r, nil, []Change{web(1, 600), web(2, 600)})

	// One does not fit, one does; one that is there cannot grow and stays as it is.
	_, err := r.Apply(nil, []Change{web(3, 400), web(4, 2), web(1, 900)})
	if !errors.Is(err, bpf.ErrFull) {
		t.Fatalf("error %v, want ErrFull", err)
	}
	for _, name := range []string{"default/web3", "default/web1"} {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("error does not name %s: %v", name, err)
		}
	}
	mustCollect(t, r)
	f.limit = 0
	diff(t, dumpOf(t, web(1, 600), web(2, 600), web(4, 2)), mustDump(t, f))
	f.limit = 1500
	if got := fmt.Sprint(r.Held()); got != "[default/web1 default/web3]" || r.Pending() != 2 {
		t.Errorf("held %s, %d pending", got, r.Pending())
	}
	if _, err := r.Retry(); !errors.Is(err, bpf.ErrFull) {
		t.Errorf("retry: %v, want ErrFull", err)
	}

	// Room appears, too late for those in the same call; what waits for readers the retry collects itself.
	if _, err := r.Apply(nil, []Change{{Name: web(2, 0).Name}, web(1, 500)}); !errors.Is(err, bpf.ErrFull) {
		t.Fatalf("error %v, want ErrFull", err)
	}
	if res, err := r.Retry(); err != nil || res.Services != 2 {
		t.Fatalf("retry: %+v, %v", res, err)
	}
	mustCollect(t, r)
	diff(t, dumpOf(t, web(1, 500), web(3, 400), web(4, 2)), mustDump(t, f))
	r.leaks(t, f)
	f.check(t)
}

func dumpOf(t *testing.T, changes ...Change) string {
	t.Helper()
	f := newFake()
	mustApply(t, newReconciler(f), nil, changes)
	return mustDump(t, f)
}

// TestFullAtRestart: an adopted Service whose new state does not fit is served as before, also after Prune.
func TestFullAtRestart(t *testing.T) {
	f := newFake()
	mustApply(t, newReconciler(f), nil, []Change{web(1, 600)})
	f.limit = 1024
	r := mustAdopt(t, f)
	if _, err := r.Apply(nil, []Change{web(1, 900)}); !errors.Is(err, bpf.ErrFull) {
		t.Fatalf("error %v, want ErrFull", err)
	}
	if _, err := r.Prune(); err != nil {
		t.Fatal(err)
	}
	diff(t, dumpOf(t, web(1, 600)), mustDump(t, f))
	mustApply(t, r, nil, []Change{{Name: web(1, 0).Name}})
	mustCollect(t, r)
	diff(t, "", mustDump(t, f))
	r.leaks(t, f)
	f.check(t)
}

// TestFullGivesBack: a Service of which only a part would fit takes nothing.
func TestFullGivesBack(t *testing.T) {
	f := newFake()
	f.fail = func(op string) error {
		if op == "GrowSlots" && len(f.slots) > 1 {
			return fmt.Errorf("%s: %w", op, bpf.ErrFull)
		}
		return nil
	}
	r := newReconciler(f)
	c := web(1, 600)
	c.Service.Ports = append(c.Service.Ports, endpoints.Port{Name: "admin", Protocol: endpoints.TCP, Port: 81})
	c.Slices[0].Ports = append(c.Slices[0].Ports, endpoints.SlicePort{Name: "admin", Protocol: endpoints.TCP, Port: 8081})
	if _, err := r.Apply(nil, []Change{c}); !errors.Is(err, bpf.ErrFull) {
		t.Fatalf("error %v, want ErrFull", err)
	}
	if n := f.totalWrites(); n != 0 {
		t.Errorf("%d writes for a Service that does not fit", n)
	}
	mustApply(t, r, nil, []Change{{Name: c.Name}})
	mustApply(t, r, nil, []Change{web(2, 1000)})
	r.leaks(t, f)
	f.check(t)
}

func TestOneFrontendFails(t *testing.T) {
	f := newFake()
	r := newReconciler(f)
	calls := 0
	f.fail = func(op string) error {
		if op == "PutFrontends" {
			if calls++; calls == 1 || calls == 3 { // the batch, and the second of its entries
				return errInjected
			}
		}
		return nil
	}
	_, err := r.Apply(nil, []Change{web(1, 1), web(2, 1), web(3, 1)})
	if want := "put frontend 10.96.1.2:80/tcp of default/web2:http/tcp: injected"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	if len(f.frontends) != 2 || r.Pending() != 1 {
		t.Errorf("%d frontends, %d pending", len(f.frontends), r.Pending())
	}
	if _, err := r.Retry(); err != nil {
		t.Fatal(err)
	}
	diff(t, dumpOf(t, web(1, 1), web(2, 1), web(3, 1)), mustDump(t, f))
	r.leaks(t, f)
	f.check(t)
}

func TestReadersKeepTheirMemory(t *testing.T) {
	f := newFake()
	r := newReconciler(f)
	mustApply(t, r, nil, []Change{web(1, 3)})
	res := mustApply(t, r, nil, []Change{web(1, 2)})
	if !res.Unlinked {
		t.Error("a removed backend and its range are not said to wait")
	}
	// At once nobody's flow may take it to be serving; its generation goes when readers have passed.
	gone := f.backends[3]
	if gone.State != 0 || gone.Generation == 0 {
		t.Errorf("removed backend is %v", gone)
	}
	f.fail = func(op string) error { return errInjected }
	if err := r.Collect(); !errors.Is(err, errInjected) || f.backends[3] != gone {
		t.Errorf("collect without Quiesce: %v, backend %v", err, f.backends[3])
	}
	f.fail = nil
	mustCollect(t, r)
	if g := f.backends[3].Generation; g != 0 {
		t.Errorf("generation %d after collection", g)
	}
	f.check(t)
}

func TestConflictIsLoggedOnce(t *testing.T) {
	var out bytes.Buffer
	f := newFake()
	r := New(f, slog.New(slog.NewTextHandler(&out, nil)))
	a, b := web(1, 1), web(2, 1)
	b.Service.ClusterIPs = a.Service.ClusterIPs
	mustApply(t, r, nil, []Change{b, a})
	b.Slices = web(2, 2).Slices
	mustApply(t, r, nil, []Change{b, a})
	mustApply(t, r, &endpoints.View{}, nil)
	want := `level=WARN msg="frontend is another Service's already" frontend=10.96.1.1:80/tcp service=default/web2:http/tcp winner=default/web1:http/tcp`
	if n := strings.Count(out.String(), "WARN"); n != 1 || !strings.Contains(out.String(), want) {
		t.Errorf("logged %q, want once %s", out.String(), want)
	}
	conflicts := r.Conflicts()
	wantConflicts := []Conflict{{
		Address: netip.MustParseAddrPort("10.96.1.1:80"), Protocol: endpoints.TCP,
		Winner: endpoints.PortName{ObjectName: a.Name, Port: "http", Protocol: endpoints.TCP},
		Losers: []endpoints.PortName{{ObjectName: b.Name, Port: "http", Protocol: endpoints.TCP}},
	}}
	if d := gocmp.Diff(wantConflicts, conflicts, gocmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
		t.Errorf("conflicts (-want +got):\n%s", d)
	}
	mustApply(t, r, nil, []Change{{Name: a.Name}})
	if c := r.Conflicts(); len(c) != 0 {
		t.Errorf("conflicts %v after the winner went", c)
	}
	f.check(t)
}

func TestSnapshot(t *testing.T) {
	f := newFake()
	mustApply(t, newReconciler(f), nil, []Change{web(1, 2)})
	f.frontends[bpf.NewFrontendKey(netip.MustParseAddrPort("[fd00::1]:53"), 17)] = bpf.Frontend{Service: 9, Inside: 1, Outside: 7777, Kind: 12}
	f.slots[f.pools[1].Offset+1].Generation++
	s, err := Read(f)
	if err != nil {
		t.Fatal(err)
	}
	diff(t, `backend 10.101.0.0:8080/tcp default/web1:http ready serving
backend 10.101.0.1:8080/tcp default/web1:http ready serving
frontend 10.96.1.1:80/tcp ClusterIP default/web1:http → cluster serve 10.101.0.0:8080
frontend [fd00::1]:53/udp kind-12 #9 → inside cluster serve, outside cluster none
problem frontend 10.96.1.1:80/tcp: slot 1 of pool 1 names backend 2 of another time
problem frontend [fd00::1]:53/udp names pool 7777, which does not exist
problem frontend [fd00::1]:53/udp: slot 0 of pool 1 names backend 1 of another time
problem frontend [fd00::1]:53/udp: slot 1 of pool 1 names backend 2 of another time
problem service 9 has no name
service #9/
service default/web1:http/tcp
`, s.Dump())
	out, err := json.Marshal(s.Services[1].Frontends)
	if err != nil {
		t.Fatal(err)
	}
	want := `[{"address":"10.96.1.1:80","protocol":"tcp","kind":"ClusterIP",` +
		`"inside":{"id":1,"set":"cluster","verdict":"serve","slots":2,"backends":["10.101.0.0:8080"]},` +
		`"outside":{"id":1,"set":"cluster","verdict":"serve","slots":2,"backends":["10.101.0.0:8080"]}}]`
	if string(out) != want {
		t.Errorf("JSON %s\nwant %s", out, want)
	}
}
