package test

import (
	"context"
	"fmt"
	"net/netip"
	"sort"
	"strings"
	"testing"

	"github.com/svcproxy/svcproxy/internal/testenv"
	"github.com/svcproxy/svcproxy/pkg/reconcile"
)

// kernelTables reads a node's tables.
func kernelTables(t *testing.T, n *testenv.Node) *reconcile.Snapshot {
	t.Helper()
	s := commandJSON[reconcile.Snapshot](t, n, "services")
	return &s
}

// meaning is a node's tables without ids, and without the order of backends in a pool, which means nothing.
func meaning(t *testing.T, n *testenv.Node) string {
	t.Helper()
	s := kernelTables(t, n)
	for i := range s.Services {
		for j := range s.Services[i].Frontends {
			f := &s.Services[i].Frontends[j]
			for _, list := range [][]netip.AddrPort{f.Inside.Backends, f.Outside.Backends} {
				sort.Slice(list, func(a, b int) bool { return list[a].Compare(list[b]) < 0 })
			}
		}
	}
	return s.Dump()
}

// metric returns what the agent says of the sample, its name with labels as it is printed; 0 if it is not there.
func (a *agent) metric(t *testing.T, sample string) (value float64) {
	t.Helper()
	eventually(t, "metrics", func(ctx context.Context) error {
		value = 0
		_, body, err := a.get(ctx, "127.0.0.1:10249", "/metrics") // may not listen yet
		if err != nil {
			return err
		}
		for _, line := range strings.Split(body, "\n") {
			if text, ok := strings.CutPrefix(line, sample+" "); ok {
				_, err = fmt.Sscan(text, &value)
			}
		}
		return err
	})
	return value
}

// event returns one of the data path's counters.
func (a *agent) event(t *testing.T, name string) float64 {
	t.Helper()
	return a.metric(t, fmt.Sprintf("svcproxy_datapath_events_total{event=%q}", name))
}

// logged waits until the agent has logged text.
func (a *agent) logged(t *testing.T, text string) {
	t.Helper()
	eventually(t, "log of the agent", func(context.Context) error {
		if !strings.Contains(a.log.String(), text) {
			return fmt.Errorf("no %q", text)
		}
		return nil
	})
}
