package main

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/svcproxy/svcproxy/pkg/bpf"
	"github.com/svcproxy/svcproxy/pkg/conntrack"
	"github.com/svcproxy/svcproxy/pkg/reconcile"
)

// conntrackPause is kube-proxy's minimum between two looks at nf_conntrack, which may be large.
const conntrackPause = time.Second

// cleanConntrack deletes, until ctx is done, entries of nf_conntrack that lead to UDP backends that have gone.
// On its own, for it reads all of them.
func (a *agent) cleanConntrack(ctx context.Context) error {
	complaints := make(map[v1.IPFamily]string) // as told
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.tracked:
		}
		known := sync.OnceValues(func() (conntrack.Frontends, error) { return udpFrontends(a.config.BPFRoot) })
		for _, f := range families {
			start := time.Now()
			deleted, err := conntrack.DeleteStale(f == v1.IPv6Protocol, known)
			a.metrics.ConntrackReconciled(f, time.Since(start), deleted)
			if deleted > 0 {
				a.log.Info("stale entries of nf_conntrack deleted", "family", f, "entries", deleted)
			}
			complaint := ""
			if err != nil {
				complaint = err.Error()
			}
			if err != nil && complaint != complaints[f] {
				a.log.Warn("nf_conntrack may go on leading UDP clients to a backend that is gone", "family", f, "error", err)
			}
			complaints[f] = complaint
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(conntrackPause):
		}
	}
}

// udpFrontends reads from the kernel's tables what the loop, which alone may use its own, has written there.
func udpFrontends(root string) (conntrack.Frontends, error) {
	view, err := bpf.Open(root)
	if err != nil {
		return nil, err
	}
	defer view.Close()
	snapshot, err := reconcile.Read(view)
	if err != nil {
		return nil, fmt.Errorf("read tables: %w", err)
	}
	frontends := make(conntrack.Frontends)
	for _, s := range snapshot.Services {
		if s.Protocol != "udp" {
			continue
		}
		serving := make(map[netip.AddrPort]bool)
		for _, b := range s.Backends {
			if b.Serving {
				serving[b.Address] = true
			}
		}
		for _, f := range s.Frontends {
			frontends[f.Address] = serving
		}
	}
	return frontends, nil
}
