package bpf

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cilium/ebpf"
)

// Loading the programs takes longer than most tests do, so nodes are made once for each way of loading
// and handed out again, with everything gone that a test has put there.
var (
	sharedNodes = make(map[string]*node)
	closeShared []func() error
)

func TestMain(m *testing.M) {
	code := m.Run()
	for _, close := range closeShared {
		if err := close(); err != nil {
			fmt.Fprintln(os.Stderr, "close node:", err)
			code = 1
		}
	}
	os.Exit(code)
}

func nodeOptions(configure []func(*Options)) Options {
	opts := Options{FirstSNATPort: 61000, LastSNATPort: 61999, Features: kernelFeatures()}
	for _, c := range configure {
		c(&opts)
	}
	return opts
}

// newNode returns a node that knows nothing, until the next call: it may have served another test before.
// configure may change how the data path is loaded.
func newNode(t testing.TB, configure ...func(*Options)) *node {
	t.Helper()
	opts := nodeOptions(configure)
	key := fmt.Sprintf("%+v", opts)
	n, ok := sharedNodes[key]
	if !ok {
		var close func() error
		n, close = makeNode(t, opts)
		sharedNodes[key] = n
		closeShared = append(closeShared, close)
		return n
	}
	n.mustDo(t, n.forget)
	return n
}

// ownNode returns a node that no other test has had or will have, for tests that close or replace its data path.
func ownNode(t testing.TB, configure ...func(*Options)) *node {
	t.Helper()
	n, close := makeNode(t, nodeOptions(configure))
	t.Cleanup(func() {
		if err := close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

var kernelFeatures = sync.OnceValue(ProbeFeatures)

// forget removes what tests put into the maps, and the programs from where they do not sit in the beginning.
func (n *node) forget() error {
	errs := []error{
		n.SetLinks(n.uplinkConfigs(), nil),
		n.SetServiceRanges(nil),
		n.DeleteFrontends(n.dialled),
	}
	n.dialled = nil
	for _, name := range []string{"flows", "embryos", "detours", "fragments", "affinity", "members", "source_ranges"} {
		errs = append(errs, clearMap(n.coll.Maps[name]))
	}
	n.Tables.filter.mu.Lock()
	clear(n.Tables.filter.counts)
	for i := range n.Tables.filter.words {
		atomic.StoreUint64(&n.Tables.filter.words[i], 0)
	}
	n.Tables.filter.mu.Unlock()
	replies, err := n.replyFilter()
	errs = append(errs, err)
	for i := range replies {
		atomic.StoreUint64(&replies[i], replyUnused)
	}
	for i := range n.stats {
		errs = append(errs, n.coll.Maps["stats"].Put(uint32(i), make([]uint64, ebpf.MustPossibleCPU())))
	}
	return errors.Join(append(errs, n.forgetErrors())...)
}

// forgetErrors grants the full burst of ICMP errors again.
func (n *node) forgetErrors() error {
	scratch := n.coll.Maps["scratch"]
	zeroes := make([][]byte, ebpf.MustPossibleCPU())
	for i := range zeroes {
		zeroes[i] = make([]byte, scratch.ValueSize())
	}
	return scratch.Put(uint32(0), zeroes)
}

func clearMap(m *ebpf.Map) error {
	var keys [][]byte
	for key, err := m.NextKeyBytes(nil); key != nil || err != nil; key, err = m.NextKeyBytes(key) {
		if err != nil {
			return fmt.Errorf("walk %s: %w", m, err)
		}
		keys = append(keys, key)
	}
	for _, key := range keys {
		if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("clear %s: %w", m, err)
		}
	}
	return nil
}

// PutFrontends remembers what is to be forgotten.
func (n *node) PutFrontends(entries map[FrontendKey]Frontend) error {
	for key := range entries {
		n.dialled = append(n.dialled, key)
	}
	return n.Datapath.PutFrontends(entries)
}
