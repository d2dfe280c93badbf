package watch

import (
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/svcproxy/svcproxy/pkg/endpoints"
)

// State is what the sources know now, and what of it has changed since it was last taken. A source
// writes it, one reader takes from it. Safe for concurrent use; a write costs what it changes, and never
// waits for the reader's work.
type State struct {
	created time.Time
	changed chan struct{}

	mu          sync.Mutex
	synced      bool
	services    map[endpoints.ObjectName]*service
	slices      map[endpoints.ObjectName]*endpoints.Slice // by their own names
	pending     map[endpoints.ObjectName]*pending         // by their Services' names
	node        *Node
	nodePending bool
	cidrs       serviceCIDRs
	counters    Counters
	decoded     time.Time // of the event that is being applied
}

// service is a Service that exists, has slices, or was said to exist by the last Take.
type service struct {
	object *endpoints.Service // nil: unknown; its slices are kept for when it comes
	slices []*endpoints.Slice // by name
	taken  bool               // the last Take said that it exists
}

// pending is what has happened to a Service since the last Take.
type pending struct {
	service  bool      // the object has changed
	slices   int       // how often one of its slices has
	since    time.Time // when the first event of it was decoded; zero: it was listed
	triggers []Trigger
}

// forget drops the triggers of a family, because a slice of it has gone.
func (p *pending) forget(ipv6 bool) {
	var left []Trigger
	for _, t := range p.triggers {
		if t.IPv6 != ipv6 {
			left = append(left, t)
		}
	}
	p.triggers = left
}

// Counters count from the start of the State.
type Counters struct {
	ServiceChanges  uint64
	EndpointChanges uint64 // changes of slices
	// Rejected counts by kind the objects, and as Manifest the files, that came with something that had
	// to be left out: again when they come with something else wrong, not at resyncs.
	Rejected map[string]uint64
}

// NewState returns a State that knows nothing.
func NewState() *State {
	return &State{
		created:  time.Now(),
		changed:  make(chan struct{}, 1),
		services: make(map[endpoints.ObjectName]*service),
		slices:   make(map[endpoints.ObjectName]*endpoints.Slice),
		pending:  make(map[endpoints.ObjectName]*pending),
		cidrs:    serviceCIDRs{objects: make(map[string][]netip.Prefix)},
		counters: Counters{Rejected: make(map[string]uint64)},
	}
}

// Changed returns the channel, of capacity 1, that receives when there is something to take: for the
// first time when everything has synced, even if that is nothing.
func (s *State) Changed() <-chan struct{} { return s.changed }

// Take returns everything that has changed since the last Take, and withdraws the signal for it. It is
// empty before everything has synced. What came and went in between, and slices of a Service that
// does not exist, are not mentioned.
func (s *State) Take() Update {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.synced {
		return Update{}
	}
	select {
	case <-s.changed:
	default:
	}
	var u Update
	for name, p := range s.pending {
		svc := s.services[name]
		if svc.object != nil || svc.taken {
			u.Changes = append(u.Changes, Change{Name: name, Service: svc.object, Slices: append([]*endpoints.Slice(nil), svc.slices...), Decoded: p.since, Triggers: p.triggers})
		}
		svc.taken = svc.object != nil
		if svc.object == nil && len(svc.slices) == 0 {
			delete(s.services, name)
		}
	}
	s.pending = make(map[endpoints.ObjectName]*pending) // not cleared: it was large once, at the start
	slices.SortFunc(u.Changes, func(a, b Change) int { return a.Name.Compare(b.Name) })
	if s.nodePending {
		u.Node, s.nodePending = s.node, false
	}
	u.ServiceCIDRs = s.cidrs.take()
	return u
}

// Pending returns how many Services, and how many changes of slices, wait to be taken.
func (s *State) Pending() (services, slices int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.pending {
		if p.service {
			services++
		}
		slices += p.slices
	}
	return services, slices
}

// Counters returns what has been counted so far.
func (s *State) Counters() Counters {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.counters
	c.Rejected = maps.Clone(c.Rejected)
	return c
}

// edit is one object's new content; nil: it has gone.
type edit struct {
	key    key
	object *object
}

// apply makes the edits visible at once. Those that change nothing are no changes.
func (s *State) apply(edits ...edit) { s.applySince(time.Time{}, edits...) }

// applySince is apply for edits whose event was decoded at that time.
func (s *State) applySince(decoded time.Time, edits ...edit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.decoded = decoded
	changed := false
	for _, e := range edits {
		o := e.object
		if o == nil {
			o = &object{}
		}
		switch e.key.kind {
		case kindService:
			changed = s.setService(e.key.name, o.service) || changed
		case kindSlice:
			changed = s.setSlice(e.key.name, o.slice, o.trigger) || changed
		case kindNode:
			changed = s.setNode(o.node) || changed
		case kindServiceCIDR:
			changed = s.cidrs.set(e.key.name.Name, o.cidrs) || changed
		}
	}
	if changed {
		s.signal()
	}
}

// sync says that the sources have told all they know. It is to be called once.
func (s *State) sync() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.synced = true
	s.signal()
}

// syncServiceCIDRs says that the source has told all ServiceCIDRs. It is to be called once, if ever: nothing
// else waits for it.
func (s *State) syncServiceCIDRs() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cidrs.sync()
	s.signal()
}

// knowsNode reports whether a Node has been applied.
func (s *State) knowsNode() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.node != nil
}

func (s *State) reject(kind string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counters.Rejected[kind]++
	s.signal() // nothing to take, but to count
}

func (s *State) signal() {
	if !s.synced {
		return
	}
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

func (s *State) setService(name endpoints.ObjectName, object *endpoints.Service) bool {
	var old *endpoints.Service
	if svc := s.services[name]; svc != nil {
		old = svc.object
	}
	if reflect.DeepEqual(old, object) {
		return false
	}
	svc, p := s.touch(name)
	svc.object = object
	p.service = true
	s.counters.ServiceChanges++
	return true
}

func (s *State) setSlice(name endpoints.ObjectName, slice *endpoints.Slice, trigger time.Time) bool {
	old := s.slices[name]
	if reflect.DeepEqual(old, slice) {
		return false
	}
	s.counters.EndpointChanges++
	if old != nil && (slice == nil || slice.Service != old.Service) { // the label may have changed
		svc, p := s.touch(old.Service)
		i, _ := svc.find(name)
		svc.slices = slices.Delete(svc.slices, i, i+1)
		p.slices++
		p.forget(old.IPv6)
	}
	if slice == nil {
		delete(s.slices, name)
		return true
	}
	s.slices[name] = slice
	svc, p := s.touch(slice.Service)
	if i, ok := svc.find(name); ok {
		svc.slices[i] = slice
	} else {
		svc.slices = slices.Insert(svc.slices, i, slice)
	}
	p.slices++
	if trigger.After(s.created) {
		p.triggers = append(p.triggers, Trigger{Time: trigger, IPv6: slice.IPv6})
	}
	return true
}

// setNode with nil says that the Node object has gone: nothing changes for the traffic, but the
// node is not eligible for more.
func (s *State) setNode(node *Node) bool {
	if node == nil && s.node != nil {
		gone := *s.node
		gone.Deleting = true
		node = &gone
	}
	if reflect.DeepEqual(s.node, node) {
		return false
	}
	s.node, s.nodePending = node, true
	return true
}

// touch returns a Service's entry and what is pending for it, making them where they do not exist.
func (s *State) touch(name endpoints.ObjectName) (*service, *pending) {
	svc := s.services[name]
	if svc == nil {
		svc = &service{}
		s.services[name] = svc
	}
	p := s.pending[name]
	if p == nil {
		p = &pending{since: s.decoded}
		s.pending[name] = p
	}
	return svc, p
}

// find returns where the slice is, or has to be. All slices of a Service are in its namespace.
func (svc *service) find(name endpoints.ObjectName) (int, bool) {
	return slices.BinarySearchFunc(svc.slices, name.Name, func(s *endpoints.Slice, name string) int {
		return strings.Compare(s.Name.Name, name)
	})
}
