package reconcile

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/svcproxy/svcproxy/pkg/bpf"
	"github.com/svcproxy/svcproxy/pkg/endpoints"
)

// balanced returns a Service with a load balancer address that clients of ranges may use.
func balanced(i, n int, ranges ...string) Change {
	c := web(i, n)
	c.Service.LoadBalancerIPs = []netip.Addr{netip.AddrFrom4([4]byte{203, 0, 113, byte(i)})}
	for _, s := range ranges {
		c.Service.SourceRanges = append(c.Service.SourceRanges, netip.MustParsePrefix(s))
	}
	return c
}

func sticky(c Change) Change {
	c.Service.Affinity = time.Hour
	return c
}

func failing(op string) func(string) error {
	return func(s string) error {
		if s == op {
			return errInjected
		}
		return nil
	}
}

// TestCannotRestrict: without its source ranges a frontend stays as it was, or out; all else is served.
func TestCannotRestrict(t *testing.T) {
	f := newFake()
	r := newReconciler(f)
	mustApply(t, r, nil, []Change{balanced(1, 1)})
	before := mustDump(t, f)

	f.fail = failing("PutSourceRange")
	changes := []Change{balanced(1, 1, "198.51.100.0/24"), balanced(2, 1, "192.168.0.0/16")}
	for _, try := range []func() (Result, error){
		func() (Result, error) { return r.Apply(nil, changes) },
		r.Retry,
	} {
		_, err := try()
		if err == nil {
			t.Fatal("no error")
		}
		for _, want := range []string{
			"admit 198.51.100.0/24 to default/web1:http/tcp: injected",
			"admit 192.168.0.0/16 to default/web2:http/tcp: injected",
			"put frontend 203.0.113.1:80/tcp of default/web1:http/tcp: its source ranges are not in the kernel",
			"put frontend 203.0.113.2:80/tcp of default/web2:http/tcp: its source ranges are not in the kernel",
		} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("error does not say %q: %v", want, err)
			}
		}
		left := strings.Split(before+dumpOf(t, web(2, 1)), "\n")
		for line := range strings.Lines(mustDump(t, f)) {
			if !slices.Contains(left, strings.TrimSpace(line)) {
				t.Errorf("unexpected: %s", line)
			}
		}
		if len(f.frontends) != 3 || r.Pending() == 0 {
			t.Errorf("%d frontends, %d pending", len(f.frontends), r.Pending())
		}
	}

	f.fail = nil
	if _, err := r.Retry(); err != nil {
		t.Fatal(err)
	}
	diff(t, dumpOf(t, changes...), mustDump(t, f))
	r.leaks(t, f)
	f.check(t)
}

// TestIDWaitsForLists: while anything is listed under an id, nobody else gets it.
func TestIDWaitsForLists(t *testing.T) {
	for _, op := range []string{"DeleteSourceRange", "DeleteMembers", "Quiesce"} {
		t.Run(op, func(t *testing.T) {
			f := newFake()
			r := newReconciler(f)
			key := bpf.NewFrontendKey(netip.MustParseAddrPort("10.96.1.1:80"), 6)
			mustApply(t, r, nil, []Change{sticky(balanced(1, 2, "198.51.100.0/24"))})
			was := f.frontends[key]

			f.fail = failing(op)
			_, err := r.Apply(nil, []Change{{Name: web(1, 0).Name}})
			if !errors.Is(err, errInjected) || op != "Quiesce" && !strings.Contains(err.Error(), "default/web1:http/tcp") {
				t.Errorf("error %v, want one that names the Service", err)
			}
			for range 3 {
				_ = r.Collect()
			}
			if r.Pending() == 0 || len(f.services) != 1 {
				t.Errorf("%d pending, names %v", r.Pending(), f.services)
			}
			if _, err := r.Apply(nil, []Change{web(2, 5)}); !errors.Is(err, errInjected) {
				t.Errorf("error %v, want one for what is left to do", err)
			}
			v := f.frontends[bpf.NewFrontendKey(netip.MustParseAddrPort("10.96.1.2:80"), 6)]
			if v.Service == was.Service || op == "DeleteMembers" && v.Inside == was.Inside {
				t.Errorf("ids of %v were reused: %v", was, v)
			}

			f.fail = nil
			if _, err := r.Retry(); err != nil {
				t.Fatal(err)
			}
			mustCollect(t, r)
			diff(t, dumpOf(t, web(2, 5)), mustDump(t, f))
			f.checkLists(t, newWorld())
			r.leaks(t, f)
			f.check(t)
		})
	}
}

// TestStaleMember: who is still a member of a pool that he has left keeps his id, and serves nobody.
func TestStaleMember(t *testing.T) {
	f := newFake()
	r := newReconciler(f)
	mustApply(t, r, nil, []Change{sticky(web(1, 2))})
	f.fail = failing("DeleteMembers")
	if _, err := r.Apply(nil, []Change{sticky(web(1, 1))}); !errors.Is(err, errInjected) {
		t.Fatalf("error %v", err)
	}
	mustCollect(t, r)
	if b := f.backends[2]; b.Generation == 0 || b.State != 0 || len(f.members) != 1 {
		t.Errorf("backend %v, members %v", b, f.members)
	}
	f.fail = nil
	if _, err := r.Retry(); err != nil {
		t.Fatal(err)
	}
	mustCollect(t, r)
	diff(t, dumpOf(t, sticky(web(1, 1))), mustDump(t, f))
	r.leaks(t, f)
	f.check(t)
}

// TestRangesOutliveFrontend: what a frontend asks for stays until it has been rewritten.
func TestRangesOutliveFrontend(t *testing.T) {
	f := newFake()
	r := newReconciler(f)
	mustApply(t, r, nil, []Change{balanced(1, 1, "198.51.100.0/24")})
	f.fail = failing("PutFrontends")
	if _, err := r.Apply(nil, []Change{balanced(1, 1)}); !errors.Is(err, errInjected) {
		t.Fatalf("error %v", err)
	}
	if len(f.sources) != 1 {
		t.Errorf("source ranges are %v while a frontend asks", f.sources)
	}
	f.fail = nil
	if _, err := r.Retry(); err != nil {
		t.Fatal(err)
	}
	if len(f.sources) != 0 {
		t.Errorf("source ranges are %v", f.sources)
	}
	diff(t, dumpOf(t, balanced(1, 1)), mustDump(t, f))
	r.leaks(t, f)
	f.check(t)
}

// TestOrphanRangesOutliveFrontend: the same for a Service whose name has been lost.
func TestOrphanRangesOutliveFrontend(t *testing.T) {
	f := newFake()
	c := balanced(1, 1, "198.51.100.0/24")
	mustApply(t, newReconciler(f), nil, []Change{c})
	clear(f.services)
	r := mustAdopt(t, f)
	f.fail = failing("PutFrontends")
	if _, err := r.Apply(nil, []Change{c}); !errors.Is(err, errInjected) {
		t.Fatalf("error %v", err)
	}
	if _, err := r.Prune(); err != nil {
		t.Fatal(err)
	}
	if len(f.sources) != 2 {
		t.Errorf("source ranges are %v while frontends ask", f.sources)
	}
	f.fail = nil
	if _, err := r.Retry(); err != nil {
		t.Fatal(err)
	}
	mustCollect(t, r)
	if len(f.sources) != 1 {
		t.Errorf("source ranges are %v", f.sources)
	}
	diff(t, dumpOf(t, c), mustDump(t, f))
	r.leaks(t, f)
	f.check(t)
}

// TestDeletedPerhaps: a delete that failed may have been done, so what is wanted again is put again.
func TestDeletedPerhaps(t *testing.T) {
	f, w := newFake(), newWorld()
	r := newReconciler(f)
	mustApply(t, r, nil, []Change{sticky(balanced(1, 2, "198.51.100.0/24", "192.168.0.0/16"))})
	f.fail = func(op string) error {
		switch op {
		case "DeleteMembers":
			clear(f.members)
			return errInjected
		case "DeleteSourceRange":
			delete(f.sources, bpf.NewSourceRange(1, netip.MustParsePrefix("192.168.0.0/16")))
			return errInjected
		}
		return nil
	}
	if _, err := r.Apply(nil, []Change{balanced(1, 2, "198.51.100.0/24")}); !errors.Is(err, errInjected) {
		t.Fatalf("error %v", err)
	}
	f.fail = nil
	w.set(sticky(balanced(1, 2, "198.51.100.0/24", "192.168.0.0/16")))
	mustApply(t, r, w.view, w.all())
	f.checkLists(t, w)
	r.leaks(t, f)
	f.check(t)
}

// TestListedIDs: an id under which an earlier agent has listed something is nobody's until Prune has taken
// it back.
func TestListedIDs(t *testing.T) {
	for _, tc := range []struct {
		op   string
		list func(f *fake)
	}{
		{"DeleteSourceRange", func(f *fake) { f.sources[bpf.NewSourceRange(1, netip.MustParsePrefix("192.168.0.0/16"))] = 1 }},
		{"DeleteMembers", func(f *fake) { f.members[bpf.Member{Pool: 1, Backend: 7}] = 1 }},
	} {
		t.Run(tc.op, func(t *testing.T) {
			f := newFake()
			if err := f.GrowPools(1024); err != nil {
				t.Fatal(err)
			}
			tc.list(f)
			r := mustAdopt(t, f)
			apply := func(i int) {
				c := sticky(balanced(i, 1, "198.51.100.0/24"))
				_, _ = r.Apply(nil, []Change{c})
				v := f.frontends[bpf.NewFrontendKey(netip.AddrPortFrom(c.Service.LoadBalancerIPs[0], 80), 6)]
				if tc.op == "DeleteMembers" && v.Inside < 2 || tc.op != "DeleteMembers" && v.Service < 2 {
					t.Errorf("frontend %v has an id under which something is listed", v)
				}
				for range 3 {
					_ = r.Collect()
				}
			}
			apply(1)
			f.fail = failing(tc.op)
			if _, err := r.Prune(); !errors.Is(err, errInjected) || r.Pending() == 0 {
				t.Errorf("prune: error %v, %d pending", err, r.Pending())
			}
			apply(2)
			apply(3)
			f.fail = nil
			if _, err := r.Retry(); err != nil {
				t.Fatal(err)
			}
			mustCollect(t, r)
			if len(f.sources) != 3 || len(f.members) != 3 {
				t.Errorf("source ranges %v, members %v", f.sources, f.members)
			}
			r.leaks(t, f)
			f.check(t)
		})
	}
}

// TestPruneKeepsName: as long as a frontend may be in the kernel, its Service has its id.
func TestPruneKeepsName(t *testing.T) {
	f := newFake()
	mustApply(t, newReconciler(f), nil, []Change{web(1, 0)})
	r := mustAdopt(t, f)
	f.fail = failing("DeleteFrontends")
	if _, err := r.Prune(); !errors.Is(err, errInjected) {
		t.Errorf("prune: error %v", err)
	}
	if len(f.services) != 1 {
		t.Error("the name is gone")
	}
	f.fail = nil
	if _, err := r.Retry(); err != nil {
		t.Fatal(err)
	}
	mustCollect(t, r)
	diff(t, "", mustDump(t, f))
	r.leaks(t, f)
	f.check(t)
}

// TestParseSource: what Adopt reads is what was put.
func TestParseSource(t *testing.T) {
	for _, s := range []string{"0.0.0.0/0", "10.1.0.0/16", "198.51.100.7/32", "::/0", "2001:db8::/33", "2001:db8::1/128", "::ffff:0:0/95"} {
		for _, id := range []uint32{1, 0x01020304, 1<<32 - 1} {
			p := netip.MustParsePrefix(s)
			if got, clients := bpf.NewSourceRange(id, p).Parse(); got != id || clients != p.Masked() {
				t.Errorf("%d %s was read as %d %s", id, p, got, clients)
			}
		}
	}
}

// TestAdoptPolicy: while no agent ran a Service's policy changed, so that its pools changed places.
func TestAdoptPolicy(t *testing.T) {
	local := func(internal, external bool) Change {
		c := balanced(1, 3)
		c.Service.InternalLocal, c.Service.ExternalLocal = internal, external
		c.Slices[0].Endpoints[1].Node = "here"
		return c
	}
	f := newFake()
	view := &endpoints.View{Node: "here"}
	mustApply(t, newReconciler(f), view, []Change{local(true, false)})
	pools := f.writes["pools"]
	r := mustAdopt(t, f)
	mustApply(t, r, view, []Change{local(false, true)})
	if _, err := r.Prune(); err != nil {
		t.Fatal(err)
	}
	if n := f.writes["pools"] - pools; n != 0 {
		t.Errorf("%d pools were written; both sets were there", n)
	}
	r.leaks(t, f)
	f.check(t)
}
