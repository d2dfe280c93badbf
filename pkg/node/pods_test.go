package node

import (
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/svcproxy/svcproxy/internal/namespaces"
	"github.com/svcproxy/svcproxy/internal/testenv"
)

// podNS is a pod's network namespace.
type podNS struct {
	*testenv.Namespace
	handle netns.NsHandle
	cookie uint64
}

// newPodNS makes a namespace that nobody sees but us, for no process is in it.
func newPodNS(t *testing.T) *podNS {
	t.Helper()
	ns, err := testenv.NewNamespace()
	must(t, err)
	p := &podNS{Namespace: ns}
	must(t, ns.Do(func() (err error) {
		if p.handle, err = netns.Get(); err == nil {
			p.cookie, err = namespaces.Cookie()
		}
		return err
	}))
	t.Cleanup(func() { p.handle.Close(); ns.Close() })
	return p
}

// inhabit starts a process in the namespace.
func (p *podNS) inhabit(t *testing.T) *testenv.Process {
	t.Helper()
	process, err := p.Start(exec.Command("sleep", "1000"))
	must(t, err)
	t.Cleanup(process.Kill)
	return process
}

// untilPods receives states until one has these pod links with these cookies.
func (w *watched) untilPods(want map[string]uint64) {
	w.t.Helper()
	deadline := time.After(patience)
	var got map[string]uint64
	for {
		select {
		case w.last = <-w.States():
			got = map[string]uint64{}
			for _, l := range w.last.PodLinks {
				got[l.Name] = l.NetnsCookie
			}
			if cmp.Equal(want, got) {
				return
			}
		case <-deadline:
			w.t.Fatalf("cookies of pods (-want +got):\n%s", cmp.Diff(want, got))
		}
	}
}

// A pod's links have the cookie of its network namespace, whatever becomes of them.
func TestPodCookies(t *testing.T) {
	one, other := newPodNS(t), newPodNS(t)
	one.inhabit(t)
	other.inhabit(t)
	node := newNS(t)
	w := newWatched(t).start(node)
	w.until("", "")

	addVeth(t, "a", one.handle)
	w.untilPods(map[string]uint64{"a": one.cookie})
	second := addVeth(t, "b", one.handle)
	addVeth(t, "c", other.handle)
	w.untilPods(map[string]uint64{"a": one.cookie, "b": one.cookie, "c": other.cookie})

	// The far end of a link moves to another pod.
	far, err := one.Netlink().LinkByName("b")
	must(t, err)
	must(t, one.Netlink().LinkSetNsFd(far, int(other.handle)))
	w.untilPods(map[string]uint64{"a": one.cookie, "b": other.cookie, "c": other.cookie})

	// A pod goes, and another that is made then may get its id.
	must(t, netlink.LinkDel(mustLink(t, "c")))
	must(t, netlink.LinkDel(second))
	w.untilPods(map[string]uint64{"a": one.cookie})
	late := newPodNS(t)
	late.inhabit(t)
	addVeth(t, "d", late.handle)
	w.untilPods(map[string]uint64{"a": one.cookie, "d": late.cookie})
}

// A namespace that cannot be found is a pod all the same, the log says so, and it is found when it can be.
func TestPodCookieNotFound(t *testing.T) {
	hidden := newPodNS(t)
	node := newNS(t)
	w := newWatched(t).start(node)
	addVeth(t, "a", hidden.handle)
	w.untilPods(map[string]uint64{"a": 0})
	deadline := time.Now().Add(patience)
	for !strings.Contains(w.logs.String(), "network namespaces of pods not found") {
		if time.Now().After(deadline) {
			t.Fatalf("the log does not say so:\n%s", w.logs)
		}
		time.Sleep(10 * time.Millisecond)
	}
	hidden.inhabit(t)
	w.untilPods(map[string]uint64{"a": hidden.cookie})
	if n := strings.Count(w.logs.String(), "not found"); n != 1 {
		t.Errorf("the log says %d times that pods are not found:\n%s", n, w.logs)
	}
}
