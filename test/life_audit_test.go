package test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/svcproxy/svcproxy/pkg/bpf"
)

// What somebody changes in the pinned tables is put right, entry by entry, while the agent serves: services that
// nobody touched do not notice.
func TestTablesChanged(t *testing.T) {
	t.Parallel()
	c, dir := lifeCluster(t)
	node, client := c.Nodes[0], c.Nodes[0].Pods[1]
	s := service("drifts", 20, 30020)
	manifest(t, dir, "drifts.yaml", append([]any{s}, slices(s, backends(c.Nodes[0].Pods[0])...)...)...)
	a := startAgent(t, node, "--manifests", dir, "--audit-period=0")
	dialled := netip.MustParseAddrPort(clusterIPv4(20) + ":80")
	answered(t, client, "tcp", dialled.String(), c.Nodes[0].Pods[0].Name)
	before := command(t, node, "services", "-o", "json") + command(t, node, "backends", "-o", "json")
	var l loads
	l.startAll(t, client.Host, webAddrs()...)
	l.startAll(t, c.Clients[0].Host, nodeAddrs(node, 30080)...)
	l.each(t, 3)

	frontends := pinnedMap(t, filepath.Join(node.BPFRoot, "maps", "frontends"))
	services := pinnedMap(t, filepath.Join(node.BPFRoot, "maps", "services"))
	key := bpf.NewFrontendKey(dialled, 6)
	var entry bpf.Frontend
	if err := frontends.Lookup(key, &entry); err != nil {
		t.Fatal(err)
	}
	view, err := bpf.Open(node.BPFRoot)
	if err != nil {
		t.Fatal(err)
	}
	defer view.Close()
	word := view.Pool(entry.Inside)
	slot := view.Slots(word.Offset, 1)[0]
	for _, tt := range []struct {
		name, table string
		change      func() error
	}{
		{"frontend deleted", "frontends", func() error { return frontends.Delete(key) }},
		{"frontend changed", "frontends", func() error {
			other := entry
			other.Inside, other.Outside = 0, 0
			return frontends.Put(key, other)
		}},
		{"frontend added", "frontends", func() error {
			return frontends.Put(bpf.NewFrontendKey(netip.MustParseAddrPort("198.18.0.1:80"), 6), entry)
		}},
		{"service name deleted", "services", func() error { return services.Delete(entry.Service) }},
		{"service name changed", "services", func() error { return services.Put(entry.Service, bpf.NewService("a/b:c", 6)) }},
		{"pool cleared", "pools", func() error { view.SetPool(entry.Inside, bpf.Pool{}); return nil }},
		{"slot changed", "slots", func() error {
			view.SetSlots(word.Offset, []bpf.Slot{{Backend: slot.Backend + 1000, Generation: 1}})
			return nil
		}},
		{"backend changed", "backends", func() error {
			b := view.Backend(slot.Backend)
			b.Port++
			view.SetBackend(slot.Backend, b)
			return nil
		}},
		{"backend added", "backends", func() error { view.SetBackend(1000, view.Backend(slot.Backend)); return nil }},
	} {
		drifts := a.drifts(t, tt.table)
		if err := tt.change(); err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		a.look(t)
		eventually(t, tt.name, func(context.Context) error {
			if n := a.drifts(t, tt.table); n != drifts+1 {
				return fmt.Errorf("%v put right, want %v", n, drifts+1)
			}
			return nil
		})
		if after := command(t, node, "services", "-o", "json") + command(t, node, "backends", "-o", "json"); after != before {
			t.Errorf("%s: tables were\n%s\nare\n%s", tt.name, before, after)
		}
		answered(t, client, "tcp", dialled.String(), c.Nodes[0].Pods[0].Name)
	}
	audits := a.metric(t, "svcproxy_audits_total")
	a.look(t)
	eventually(t, "one more audit", func(context.Context) error {
		if a.metric(t, "svcproxy_audits_total") == audits {
			return errors.New("not yet")
		}
		return nil
	})
	a.logged(t, "differences=0")
	l.stop(t)
}

// An audit comes by itself as often as the flag says.
func TestAuditPeriod(t *testing.T) {
	t.Parallel()
	c, dir := lifeCluster(t)
	a := startAgent(t, c.Nodes[0], "--manifests", dir, "--audit-period=20ms")
	eventually(t, "audits", func(context.Context) error {
		if n := a.metric(t, "svcproxy_audits_total"); n < 3 {
			return fmt.Errorf("%v", n)
		}
		return nil
	})
	for _, table := range []string{"frontends", "services", "pools", "slots", "backends", "members", "source_ranges"} {
		if n := a.drifts(t, table); n != 0 {
			t.Errorf("%v drifts in %s where nobody changes anything", n, table)
		}
	}
}

func pinnedMap(t *testing.T, path string) *ebpf.Map {
	t.Helper()
	m, err := ebpf.LoadPinnedMap(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}
