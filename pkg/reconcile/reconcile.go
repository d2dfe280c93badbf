// Package reconcile makes the kernel's tables say what the model says: it keeps ids stable, finds the
// difference, and writes it in an order that readers, who look at any moment, never notice.
//
// The path of a reader is frontend → pool → slot → backend, so it is written from its end: backends,
// slots in a range nobody reads, the pool (one atomic store), what frontends make a program ask (source
// ranges, the members of a pool), then the frontends that name it. What no path leads to any more is only
// then let go, and reused after [Reconciler.Collect] has waited for the readers that may still be on
// their way. A change costs what its own Service costs (DESIGN D3, D12).
package reconcile

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"github.com/svcproxy/svcproxy/pkg/bpf"
	"github.com/svcproxy/svcproxy/pkg/endpoints"
)

// A Change is all there is to know about one Service now.
type Change struct {
	Name    endpoints.ObjectName
	Service *endpoints.Service // nil: there is none
	Slices  []*endpoints.Slice
}

// Result says what a call has done.
type Result struct {
	Services int    // that are in the kernel now as the model has them
	Writes   uint64 // entries written and deleted in all tables
	Unlinked bool   // something waits for [Reconciler.Collect]
}

// Reconciler owns the contents of the tables. One goroutine uses it.
type Reconciler struct {
	tables Tables
	log    *slog.Logger
	arrays arrays
	view   *endpoints.View
	stats  Stats

	services  map[endpoints.ObjectName]*service
	ports     map[endpoints.PortName]*port // that have a service id
	frontends map[bpf.FrontendKey]*frontend
	contested set[*frontend] // have several claims
	orphans   orphans
	pruned    bool // orphans are to be deleted

	serviceIDs, poolIDs, backendIDs *ids
	ranges                          *ranges
	generations                     generations

	links       map[uint32]int      // pool → how often frontends in the kernel name it
	restricting map[restriction]int // how many frontends in the kernel ask for source ranges
	slots       []uint32            // backend → how often slots of pools name it
	trash       trash
	swept       trash // waits for Release

	pass    uint64      // counts updates
	plans   []plan      // of the current update
	touched []*frontend // by the current call

	// What failed, for Retry.
	held      set[endpoints.ObjectName] // did not fit: in the kernel as before
	unsettled set[*frontend]
	unnamed   set[*port] // not in the services table
	unlisted  set[*port] // lack source ranges or members
	retiring  set[*port] // hold something, if only an id, that they are to give back
}

// A service is a Service as last told, and its ports as they are in the kernel.
type service struct {
	object *endpoints.Service
	slices []*endpoints.Slice
	ports  []*port
}

// New returns a Reconciler for empty tables; [Reconciler.Adopt] is for others.
func New(tables Tables, log *slog.Logger) *Reconciler {
	return &Reconciler{
		tables: tables,
		log:    log,
		arrays: newArrays(tables),
		view:   &endpoints.View{},

		services:  make(map[endpoints.ObjectName]*service),
		ports:     make(map[endpoints.PortName]*port),
		frontends: make(map[bpf.FrontendKey]*frontend),
		orphans:   newOrphans(),

		serviceIDs:  newIDs(nil, 0),
		poolIDs:     newIDs(nil, 0),
		backendIDs:  newIDs(nil, 0),
		ranges:      newRanges(tables.SlotsLen(), nil),
		generations: generations{next: 1, limit: 1},

		links:       make(map[uint32]int),
		restricting: make(map[restriction]int),
	}
}

// Apply makes the tables say what changes say, seen from view; a nil view is the last one, another one
// concerns all Services. Of two changes of one Service the later counts.
//
// The errors are joined; each names its Service or frontend. A Service that does not fit ([bpf.ErrFull])
// stays as it was before, whole. All that failed is left to [Reconciler.Retry], the rest is done.
func (r *Reconciler) Apply(view *endpoints.View, changes []Change) (Result, error) {
	r.stats.Applies++
	writes := r.begin()
	var errs []error
	r.anticipate(changes)
	done := 0
	update := func(name endpoints.ObjectName) {
		if err := r.update(name); err != nil {
			errs = append(errs, err)
		} else {
			done++
		}
	}
	if view != nil {
		r.view = view
	}
	for _, c := range changes {
		r.remember(c)
		update(c.Name)
	}
	if view != nil {
		told := make(map[endpoints.ObjectName]struct{}, len(changes))
		for _, c := range changes {
			told[c.Name] = struct{}{}
		}
		for _, name := range slices.SortedFunc(maps.Keys(r.services), endpoints.ObjectName.Compare) {
			if _, ok := told[name]; !ok {
				update(name)
			}
		}
	}
	errs = append(errs, r.settle()...)
	return r.end(writes, done, errs)
}

// Retry tries again what failed before.
func (r *Reconciler) Retry() (Result, error) {
	writes := r.begin()
	var errs []error
	done := 0
	for _, name := range r.Held() {
		if err := r.update(name); err != nil {
			errs = append(errs, err)
		} else {
			done++
		}
	}
	for _, f := range r.unsettled.list {
		r.touch(f)
	}
	errs = append(errs, r.settle()...)
	return r.end(writes, done, errs)
}

// Pending returns how many things [Reconciler.Retry] has to do.
func (r *Reconciler) Pending() int {
	n := r.held.len() + r.unsettled.len() + r.unnamed.len() + r.unlisted.len() + r.retiring.len()
	if r.pruned {
		n += r.orphans.len()
	}
	return n
}

// Service returns a Service as last told; nil: there is none.
func (r *Reconciler) Service(name endpoints.ObjectName) (*endpoints.Service, []*endpoints.Slice) {
	s := r.services[name]
	if s == nil {
		return nil, nil
	}
	return s.object, s.slices
}

// Held returns the Services that do not fit, sorted.
func (r *Reconciler) Held() []endpoints.ObjectName {
	return slices.SortedFunc(slices.Values(r.held.list), endpoints.ObjectName.Compare)
}

func (r *Reconciler) begin() uint64 {
	return r.stats.writes()
}

func (r *Reconciler) end(writes uint64, services int, errs []error) (Result, error) {
	r.stats.Errors += uint64(len(errs))
	return Result{
		Services: services,
		Writes:   r.stats.writes() - writes,
		Unlinked: !r.trash.unlinked.empty(),
	}, errors.Join(errs...)
}

func (r *Reconciler) remember(c Change) {
	s := r.services[c.Name]
	if s == nil {
		s = &service{}
		r.services[c.Name] = s
	}
	s.object, s.slices = c.Service, c.Slices
}

// update brings the ports of one Service up to date, all but their frontends, which settle does for all
// Services of a call together.
func (r *Reconciler) update(name endpoints.ObjectName) error {
	s := r.services[name]
	var want []endpoints.Resolved
	if s.object != nil {
		want = endpoints.Resolve(s.object, s.slices, r.view)
	}
	r.pass++
	r.plans = r.plans[:0]
	for i := range want {
		r.plans = append(r.plans, r.plan(&want[i]))
	}
	if err := r.reserve(r.plans); err != nil {
		r.held.add(name)
		for i := range r.plans { // adopted ones stay as they are, but are the Service's to lose
			if p := r.plans[i].port; p.id != 0 && !slices.Contains(s.ports, p) {
				s.ports = append(s.ports, p)
			}
		}
		return fmt.Errorf("program service %s: %w", name, err)
	}
	r.held.remove(name)

	for i := range r.plans {
		r.commit(&r.plans[i])
	}
	for _, p := range s.ports {
		if p.pass != r.pass {
			r.abandon(p)
		}
	}
	s.ports = s.ports[:0]
	for i := range r.plans {
		s.ports = append(s.ports, r.plans[i].port)
	}
	if s.object == nil {
		delete(r.services, name)
	}
	return nil
}

// settle does what needs all Services of a call: frontends can move between them. Names first, so that
// whatever a frontend leads to can be told after a crash; then what frontends ask for, frontends, and
// what they led to before.
func (r *Reconciler) settle() []error {
	errs := r.nameServices()
	errs = append(errs, r.listAll()...)
	errs = append(errs, r.settleFrontends()...)
	return append(errs, r.retireAll()...)
}
