package node

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/svcproxy/svcproxy/internal/namespaces"
)

const (
	seekAgain = 50 * time.Millisecond // after a namespace was not found; then twice as long each time
	seekTell  = 16 * seekAgain        // a runtime that has yet to start a process has had time to
	seekMost  = time.Minute
)

// farEnd is the end of a pod's link that is the pod's. The id by which we know a namespace is given to another
// when it has gone; but then the link has gone with it.
type farEnd struct{ link, namespace int }

// podNames knows pods by the cookie of their network namespace (SO_NETNS_COOKIE), by which their sockets are
// known too. Owned by Run.
type podNames struct {
	log     *slog.Logger
	cookies map[farEnd]uint64 // of the links there are; 0: not found so far
	wait    time.Duration     // before looking again for what was not found
	due     time.Time
	told    bool
}

// name fills in the links' cookies. Namespaces are looked for when there is a link that was not there before, and
// again for a while for those that were not found, as long as is returned; 0: no need to.
func (p *podNames) name(links []PodLink) (again time.Duration) {
	cookies := make(map[farEnd]uint64, len(links))
	missing := make(map[int]bool)
	fresh := false
	for _, l := range links {
		end := farEnd{l.Index, l.namespace}
		cookie, known := p.cookies[end]
		cookies[end] = cookie
		if cookie == 0 {
			missing[l.namespace] = true
			fresh = fresh || !known
		}
	}
	p.cookies = cookies
	if fresh {
		p.wait, p.due = 0, time.Now()
	}
	if len(missing) > 0 && !time.Now().Before(p.due) {
		found, err := findCookies(missing)
		for end, cookie := range cookies {
			if cookie == 0 {
				cookies[end] = found[end.namespace]
			}
		}
		p.wait = min(max(2*p.wait, seekAgain), seekMost)
		p.due = time.Now().Add(p.wait)
		if len(missing) > 0 && p.wait >= seekTell && !p.told {
			p.log.Warn("network namespaces of pods not found: packets and sockets of such a pod may keep a backend each, where sessions are sticky",
				"namespaces", len(missing), "error", err)
			p.told = true
		}
	}
	for i, l := range links {
		links[i].NetnsCookie = cookies[farEnd{l.Index, l.namespace}]
	}
	if len(missing) == 0 {
		p.told = false
		return 0
	}
	return max(time.Until(p.due), seekAgain)
}

// findCookies looks through the namespaces that can be seen for those with the wanted ids. It removes from wanted
// what it finds. The error says why others could not be looked at.
func findCookies(wanted map[int]bool) (map[int]uint64, error) {
	found := make(map[int]uint64)
	var lastErr error
	for ns := range namespaces.All() {
		id, err := netlink.GetNetNsIdByFd(int(ns.Fd())) // negative if no link of ours leads there
		if err == nil && wanted[id] {
			err = namespaces.Do(ns, func() (err error) {
				found[id], err = namespaces.Cookie()
				return err
			})
			if err == nil {
				delete(wanted, id)
			}
		}
		if err != nil {
			lastErr = fmt.Errorf("%s: %w", ns.Name(), err)
		}
		if len(wanted) == 0 {
			return found, nil
		}
	}
	return found, lastErr
}
