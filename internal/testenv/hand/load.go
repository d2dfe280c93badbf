package hand

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// LoadOptions say what a [Load] does.
type LoadOptions struct {
	Network string // tcp or udp (connected sockets)
	Addr    string // of a [Server], or of a Service in front of some
	Workers int    // requests in flight
	// Persistent: a worker keeps its socket until a request fails. Otherwise each request is a new
	// socket: connect, one answer, close.
	Persistent bool
	// Reset: TCP connections end with a RST, which leaves no TIME_WAIT to run out of ports by.
	Reset bool
	Pause time.Duration // between a worker's requests
}

// LoadReport is what came of a load so far.
type LoadReport struct {
	Requests int            // that were answered
	Failures int            // that were not
	Errors   []string       // the first few failures
	Backends map[string]int // who answered how often
	Slowest  time.Duration  // of the answered requests
	Elapsed  time.Duration
	CPU      time.Duration // used by the client's process, kernel work included
}

// Load is requests being made by a host until stopped.
type Load struct {
	hand *Hand
	id   int
}

// Load starts making requests.
func (h *Hand) Load(ctx context.Context, o LoadOptions) (*Load, error) {
	id, err := call[int](ctx, h, startLoad(o))
	if err != nil {
		return nil, err
	}
	return &Load{hand: h, id: id}, nil
}

// Report returns what came of the load so far.
func (l *Load) Report(ctx context.Context) (LoadReport, error) {
	return call[LoadReport](ctx, l.hand, readLoad{ID: l.id})
}

// Stop ends the load when the requests in flight have ended, and returns its final report.
func (l *Load) Stop(ctx context.Context) (LoadReport, error) {
	return call[LoadReport](ctx, l.hand, stopLoad{ID: l.id})
}

type (
	startLoad LoadOptions
	readLoad  struct{ ID int }
	stopLoad  struct{ ID int }
)

func (v startLoad) do(_ context.Context, s *server) (any, error) {
	addr, err := netip.ParseAddrPort(v.Addr)
	if err != nil {
		return nil, err
	}
	l := &load{LoadOptions: LoadOptions(v), addr: addr, stopping: make(chan struct{}),
		begun: time.Now(), cpu: cpuTime(), report: LoadReport{Backends: map[string]int{}}}
	for range v.Workers {
		l.workers.Go(l.work)
	}
	return s.loads.add(l), nil
}

func (v readLoad) do(_ context.Context, s *server) (any, error) {
	l, err := s.loads.lookup(v.ID)
	if err != nil {
		return nil, err
	}
	return l.read(), nil
}

func (v stopLoad) do(_ context.Context, s *server) (any, error) {
	l, err := s.loads.remove(v.ID)
	if err != nil {
		return nil, err
	}
	close(l.stopping)
	l.workers.Wait()
	return l.read(), nil
}

// load is the child's side of a [Load].
type load struct {
	LoadOptions
	addr     netip.AddrPort
	begun    time.Time
	cpu      time.Duration // of the process when the load began
	stopping chan struct{}
	workers  sync.WaitGroup

	mu     sync.Mutex
	report LoadReport
}

func (l *load) read() LoadReport {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.report
	r.Errors, r.Backends = slices.Clone(r.Errors), maps.Clone(r.Backends)
	r.Elapsed, r.CPU = time.Since(l.begun), cpuTime()-l.cpu
	return r
}

func (l *load) record(backend string, err error, took time.Duration) {
	const kept = 5
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		l.report.Requests++
		l.report.Backends[backend]++
		l.report.Slowest = max(l.report.Slowest, took)
		return
	}
	l.report.Failures++
	if len(l.report.Errors) < kept {
		l.report.Errors = append(l.report.Errors, err.Error())
	}
}

func (l *load) work() {
	const afterFailure = 5 * time.Millisecond // a refused connection must not become a busy loop
	c := &loadClient{load: l, fd: -1, buf: make([]byte, 256)}
	defer c.close()
	for {
		begin := time.Now()
		backend, err := c.request()
		l.record(backend, err, time.Since(begin))
		pause := l.Pause
		if err != nil {
			pause = max(pause, afterFailure)
		}
		if pause == 0 {
			select {
			case <-l.stopping:
				return
			default:
				continue
			}
		}
		select {
		case <-l.stopping:
			return
		case <-time.After(pause):
		}
	}
}

func cpuTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0 // documented to fail only for bad arguments
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
