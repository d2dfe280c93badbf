package reconcile

import (
	"net/netip"
	"testing"

	"github.com/svcproxy/svcproxy/pkg/bpf"
)

// mustQuiesce ends the running programs, whatever fails else.
func (f *fake) mustQuiesce(t testing.TB) {
	t.Helper()
	fail := f.fail
	f.fail = nil
	if err := f.Quiesce(); err != nil {
		t.Fatal(err)
	}
	f.fail = fail
}

// TestSweep: while a sweep waits, changes go on, and get nothing of what it holds; what they unlink is the
// next one's.
func TestSweep(t *testing.T) {
	f := newFake()
	r := newReconciler(f)
	mustApply(t, r, nil, []Change{web(1, 3), web(2, 3)})
	if _, err := r.Prune(); err != nil {
		t.Fatal(err)
	}
	pool := func(i byte) uint32 {
		return f.frontends[bpf.NewFrontendKey(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 96, 1, i}), 80), 6)].Inside
	}
	first := pool(1)
	mustApply(t, r, nil, []Change{{Name: web(1, 0).Name}})
	if !r.Unlinked() {
		t.Fatal("nothing was unlinked")
	}
	r.Sweep()
	if found := audit(t, r, func() {}); len(found) > 0 {
		t.Errorf("the audit takes what was swept for drift: %v", found)
	}
	if r.Unlinked() {
		t.Error("swept, and still to be swept")
	}
	mustApply(t, r, nil, []Change{web(3, 3), {Name: web(2, 0).Name}})
	if pool(3) == first {
		t.Error("a pool was reused while a program may read it")
	}
	if !r.Unlinked() {
		t.Error("what was unlinked during the sweep is lost")
	}
	f.mustQuiesce(t)
	r.Release()
	mustApply(t, r, nil, []Change{web(4, 3)})
	if got := pool(4); got != first {
		t.Errorf("pool %d was taken, not %d, which has been released", got, first)
	}
	mustCollect(t, r)
	diff(t, dumpOf(t, web(3, 3), web(4, 3)), mustDump(t, f))
	r.leaks(t, f)
	f.check(t)
}
