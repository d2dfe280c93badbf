package test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/svcproxy/svcproxy/internal/testenv"
	"github.com/svcproxy/svcproxy/internal/testenv/hand"
)

// loads are requests that hosts make all the time, none of which may fail.
type loads struct {
	running []namedLoad
	// ended: the backend that was there at the start has been removed since, so connected UDP sockets of pods
	// are ended: each fails once, with what tells its owner to connect again.
	ended bool
}

type namedLoad struct {
	*hand.Load
	name    string
	sockets int // connected UDP sockets of a pod
}

// start begins one load of a kind. The pause leaves the machine's processors to the agent and to others.
func (l *loads) start(t *testing.T, from *testenv.Host, network, addr string, persistent bool) {
	t.Helper()
	kind := "new sockets"
	workers := 2
	if persistent {
		kind = "old sockets"
		workers = 8 // so that each backend has some
	}
	load, err := from.Load(t.Context(), hand.LoadOptions{Network: network, Addr: addr, Workers: workers,
		Persistent: persistent, Reset: !persistent, Pause: 10 * time.Millisecond})
	if err != nil {
		t.Fatalf("load: %v", err)
	}
	sockets := 0
	if persistent && network == "udp" && strings.HasPrefix(from.Name, "pod-") {
		sockets = workers
	}
	l.running = append(l.running, namedLoad{load, from.Name + " " + network + " " + addr + " " + kind, sockets})
}

// startAll begins all kinds of load to an address.
func (l *loads) startAll(t *testing.T, from *testenv.Host, addrs ...string) {
	t.Helper()
	for _, addr := range addrs {
		for _, network := range []string{"tcp", "udp"} {
			l.start(t, from, network, addr, false)
			l.start(t, from, network, addr, true)
		}
	}
}

// check fails the test if a load has had a failure, and returns how many requests there were.
func (l *loads) check(t *testing.T) (requests int) {
	t.Helper()
	for _, load := range l.running {
		r, err := load.Report(t.Context())
		if err != nil {
			t.Fatalf("%s: %v", load.name, err)
		}
		if r.Failures > 0 {
			t.Errorf("%s: %d of %d requests failed: %q", load.name, r.Failures, r.Failures+r.Requests, r.Errors)
		}
		requests += r.Requests
	}
	return requests
}

// each waits until every load has made that many more requests: so what came before was under load.
func (l *loads) each(t *testing.T, more int) {
	t.Helper()
	for _, load := range l.running {
		before, err := load.Report(t.Context())
		if err != nil {
			t.Fatalf("%s: %v", load.name, err)
		}
		eventually(t, load.name+" goes on", func(ctx context.Context) error {
			now, err := load.Report(ctx)
			if err == nil && now.Requests < before.Requests+more {
				err = fmt.Errorf("%+v", now)
			}
			return err
		})
	}
}

// stop ends the loads and fails the test if one of them had a failure or did nothing.
func (l *loads) stop(t *testing.T) {
	t.Helper()
	for _, load := range l.running {
		r, err := load.Stop(t.Context())
		if err != nil {
			t.Fatalf("%s: %v", load.name, err)
		}
		t.Logf("%s: %d requests, slowest %v, %v", load.name, r.Requests, r.Slowest.Round(time.Millisecond), r.Backends)
		if l.ended && load.sockets > 0 && r.Failures > 0 {
			for _, e := range r.Errors {
				if !strings.HasSuffix(e, unix.EDESTADDRREQ.Error()) && !strings.HasSuffix(e, unix.ECONNABORTED.Error()) {
					t.Errorf("%s: %s", load.name, e)
				}
			}
			r.Failures = max(0, r.Failures-load.sockets)
		}
		if r.Failures > 0 || r.Requests == 0 {
			t.Errorf("%s: %d of %d requests failed: %q", load.name, r.Failures, r.Failures+r.Requests, r.Errors)
		}
	}
	l.running = nil
}
