package watch

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/svcproxy/svcproxy/pkg/endpoints"
)

func signalled(s *State) bool {
	select {
	case <-s.Changed():
		return true
	default:
		return false
	}
}

func serviceEdit(s *endpoints.Service) edit {
	return edit{key{kindService, s.Name}, &object{service: s}}
}

func sliceEdit(s *endpoints.Slice, trigger time.Time) edit {
	return edit{key{kindSlice, s.Name}, &object{slice: s, trigger: trigger}}
}

func gone(kind string, name endpoints.ObjectName) edit { return edit{key: key{kind, name}} }

// sliceOf is a slice of a Service in namespace default.
func sliceOf(service, name string) *endpoints.Slice {
	return webSliceModel(func(s *endpoints.Slice) { s.Name.Name, s.Service.Name = name, service })
}

func defaultName(name string) endpoints.ObjectName {
	return endpoints.ObjectName{Namespace: "default", Name: name}
}

// syncedState has been taken from, so that what follows is seen alone.
func syncedState(t *testing.T, edits ...edit) *State {
	t.Helper()
	s := NewState()
	s.apply(edits...)
	s.sync()
	s.Take()
	return s
}

func wantUpdate(t *testing.T, s *State, want Update) {
	t.Helper()
	got := s.Take()
	for i := range got.Changes {
		got.Changes[i].Decoded = time.Time{} // TestStoreDecoded looks at these
	}
	if diff := cmp.Diff(want, got, compareAddrs); diff != "" {
		t.Errorf("update (-want +got):\n%s", diff)
	}
}

func TestStateBeforeSync(t *testing.T) {
	s := NewState()
	s.apply(serviceEdit(webModel(nil)), edit{key{kindNode, endpoints.ObjectName{Name: "node-a"}}, &object{node: nodeAModel(nil)}})
	if signalled(s) {
		t.Error("signalled before everything has synced (R-11.1)")
	}
	wantUpdate(t, s, Update{})
	s.sync()
	if !signalled(s) {
		t.Error("not signalled when synced")
	}
	wantUpdate(t, s, Update{Changes: []Change{{Name: webName, Service: webModel(nil)}}, Node: nodeAModel(nil)})
	wantUpdate(t, s, Update{})
}

func TestStateSignalsAnEmptyStart(t *testing.T) {
	s := NewState()
	s.sync()
	if !signalled(s) {
		t.Error("not signalled when synced")
	}
}

func TestStateTake(t *testing.T) {
	future := time.Now().Add(time.Hour)
	service, sliceA, sliceB := webModel(nil), sliceOf("web", "web-a"), sliceOf("web", "web-b")
	known := []edit{serviceEdit(service), sliceEdit(sliceA, time.Time{})}
	ready := sliceOf("web", "web-a")
	ready.Endpoints[0].Ready = false
	sliceB6 := sliceOf("web", "web-b")
	sliceB6.IPv6 = true
	moved := sliceOf("api", "web-a")
	other := webModel(func(s *endpoints.Service) { s.Name.Name = "api" })
	for _, tt := range []struct {
		name  string
		known []edit
		edits []edit
		want  []Change
	}{
		{name: "R-11.8 the same again is nothing", known: known,
			edits: []edit{serviceEdit(webModel(nil)), sliceEdit(sliceOf("web", "web-a"), future)}},
		{name: "changes of one Service are one, slices by name", known: known,
			edits: []edit{sliceEdit(sliceB, time.Time{}), sliceEdit(ready, time.Time{})},
			want:  []Change{{Name: webName, Service: service, Slices: []*endpoints.Slice{ready, sliceB}}}},
		{name: "Services by name", known: known, edits: []edit{serviceEdit(other), sliceEdit(ready, time.Time{})},
			want: []Change{{Name: defaultName("api"), Service: other}, {Name: webName, Service: service, Slices: []*endpoints.Slice{ready}}}},
		{name: "R-11.7 a Service that goes leaves its slices", known: known, edits: []edit{gone(kindService, webName)},
			want: []Change{{Name: webName, Slices: []*endpoints.Slice{sliceA}}}},
		{name: "R-11.7 which are there when it comes back", known: append(known[:2:2], gone(kindService, webName)), edits: []edit{serviceEdit(service)},
			want: []Change{{Name: webName, Service: service, Slices: []*endpoints.Slice{sliceA}}}},
		{name: "slices of no Service are not mentioned", known: known, edits: []edit{sliceEdit(sliceOf("nobody", "n-1"), time.Time{})}},
		{name: "what came and went is not mentioned", known: known, edits: []edit{serviceEdit(other), gone(kindService, other.Name)}},
		{name: "what went and came is", known: known, edits: []edit{gone(kindService, webName), serviceEdit(service)},
			want: []Change{{Name: webName, Service: service, Slices: []*endpoints.Slice{sliceA}}}},
		{name: "R-11.4 removing what is not there", known: known, edits: []edit{gone(kindSlice, defaultName("x")), gone(kindService, defaultName("x"))}},
		{name: "R-11.6 a slice that moves changes both", known: append(known[:2:2], serviceEdit(other)), edits: []edit{sliceEdit(moved, time.Time{})},
			want: []Change{{Name: defaultName("api"), Service: other, Slices: []*endpoints.Slice{moved}}, {Name: webName, Service: service}}},
		{name: "R-11.10 triggers of changed slices", known: known,
			edits: []edit{sliceEdit(ready, future), sliceEdit(sliceB, future.Add(1))},
			want:  []Change{{Name: webName, Service: service, Slices: []*endpoints.Slice{ready, sliceB}, Triggers: []Trigger{{Time: future}, {Time: future.Add(1)}}}}},
		{name: "R-11.10 not from before the start", known: known, edits: []edit{sliceEdit(ready, time.Now().Add(-time.Hour))},
			want: []Change{{Name: webName, Service: service, Slices: []*endpoints.Slice{ready}}}},
		{name: "R-11.10 each of its family", known: known,
			edits: []edit{sliceEdit(ready, future), sliceEdit(sliceB6, future)},
			want:  []Change{{Name: webName, Service: service, Slices: []*endpoints.Slice{ready, sliceB6}, Triggers: []Trigger{{Time: future}, {Time: future, IPv6: true}}}}},
		{name: "R-11.10 a removed slice clears those of its family", known: known,
			edits: []edit{sliceEdit(sliceB, future), sliceEdit(sliceB6, future), gone(kindSlice, sliceA.Name)},
			want:  []Change{{Name: webName, Service: service, Slices: []*endpoints.Slice{sliceB6}, Triggers: []Trigger{{Time: future, IPv6: true}}}}},
		{name: "R-11.10 a removed slice clears them", known: known,
			edits: []edit{sliceEdit(sliceB, future), gone(kindSlice, sliceA.Name)},
			want:  []Change{{Name: webName, Service: service, Slices: []*endpoints.Slice{sliceB}}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := syncedState(t, tt.known...)
			s.apply(tt.edits...)
			if tt.want != nil && !signalled(s) {
				t.Error("not signalled")
			}
			wantUpdate(t, s, Update{Changes: tt.want})
			if signalled(s) {
				t.Error("still signalled after everything was taken")
			}
			wantUpdate(t, s, Update{})
		})
	}
}

func TestStateNoOpsDoNotSignal(t *testing.T) {
	s := syncedState(t, serviceEdit(webModel(nil)), sliceEdit(webSliceModel(nil), time.Time{}))
	s.apply(serviceEdit(webModel(nil)), sliceEdit(webSliceModel(nil), time.Now().Add(time.Hour)), gone(kindService, defaultName("x")))
	if signalled(s) {
		t.Error("signalled for nothing")
	}
	if got := s.Counters(); got.ServiceChanges != 1 || got.EndpointChanges != 1 {
		t.Errorf("counted %d and %d changes, want 1 and 1", got.ServiceChanges, got.EndpointChanges)
	}
}

func TestStateForgets(t *testing.T) {
	s := syncedState(t, serviceEdit(webModel(nil)), sliceEdit(webSliceModel(nil), time.Time{}), sliceEdit(sliceOf("nobody", "n-1"), time.Time{}))
	s.apply(gone(kindService, webName), gone(kindSlice, defaultName("web-1")), gone(kindSlice, defaultName("n-1")))
	s.Take()
	if len(s.services)+len(s.slices)+len(s.pending) != 0 {
		t.Errorf("remembers %v, %v, %v; want nothing", s.services, s.slices, s.pending)
	}
}

func TestStateNode(t *testing.T) {
	nodeKey := key{kindNode, endpoints.ObjectName{Name: "node-a"}}
	s := syncedState(t, edit{nodeKey, &object{node: nodeAModel(nil)}})
	s.apply(edit{nodeKey, &object{node: nodeAModel(nil)}})
	wantUpdate(t, s, Update{})
	s.apply(edit{key: nodeKey})
	wantUpdate(t, s, Update{Node: nodeAModel(func(n *Node) { n.Deleting = true })})
	s.apply(edit{nodeKey, &object{node: nodeAModel(func(n *Node) { n.Zone = "z2" })}})
	if !signalled(s) {
		t.Error("not signalled")
	}
	wantUpdate(t, s, Update{Node: nodeAModel(func(n *Node) { n.Zone = "z2" })})
}

func TestStatePending(t *testing.T) {
	s := syncedState(t, serviceEdit(webModel(nil)))
	s.apply(sliceEdit(sliceOf("web", "a"), time.Time{}), sliceEdit(sliceOf("web", "b"), time.Time{}),
		serviceEdit(webModel(func(s *endpoints.Service) { s.Name.Name = "api" })))
	if services, slices := s.Pending(); services != 1 || slices != 2 {
		t.Errorf("%d Services and %d slices are pending, want 1 and 2", services, slices)
	}
	s.Take()
	if services, slices := s.Pending(); services != 0 || slices != 0 {
		t.Errorf("%d Services and %d slices are pending after Take, want none", services, slices)
	}
}

// TestStateConcurrent writes at random while a reader takes: what the reader has pieced together must be
// what was written last.
func TestStateConcurrent(t *testing.T) {
	s := NewState()
	s.sync()
	const writers, edits = 4, 2000
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(w)))
			for range edits { // each writer has its own Services and slices, and all end with their removal or value
				name := defaultName(fmt.Sprintf("s-%d-%d", w, rng.IntN(5)))
				slice := sliceOf(fmt.Sprintf("s-%d-%d", w, rng.IntN(5)), fmt.Sprintf("slice-%d-%d", w, rng.IntN(8)))
				switch rng.IntN(4) {
				case 0:
					s.apply(gone(kindService, name))
				case 1:
					s.apply(serviceEdit(webModel(func(s *endpoints.Service) { s.Name = name; s.HealthCheckNodePort = uint16(rng.IntN(3)) })))
				case 2:
					s.apply(gone(kindSlice, slice.Name))
				case 3:
					s.apply(sliceEdit(slice, time.Time{}))
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	got := make(map[endpoints.ObjectName]Change)
	take := func() {
		for _, c := range s.Take().Changes {
			if got[c.Name] = c; c.Service == nil {
				delete(got, c.Name)
			}
		}
	}
	for running := true; running; {
		select {
		case <-s.Changed():
			take()
		case <-done:
			running = false
		}
	}
	if signalled(s) {
		take()
	}
	want := make(map[endpoints.ObjectName]Change)
	for name, svc := range s.services {
		if svc.object != nil {
			want[name] = Change{Name: name, Service: svc.object, Slices: append([]*endpoints.Slice(nil), svc.slices...)}
		}
	}
	if diff := cmp.Diff(want, got, compareAddrs); diff != "" {
		t.Errorf("what was taken (-want +got):\n%s", diff)
	}
	for name, slice := range s.slices {
		if _, ok := s.services[slice.Service].find(name); !ok {
			t.Errorf("slice %v is not with its Service %v", name, slice.Service)
		}
	}
}

// BenchmarkStateSliceEvent is to cost the same whatever the size of the cluster (D12).
func BenchmarkStateSliceEvent(b *testing.B) {
	for _, services := range []int{100, 50_000} {
		b.Run(fmt.Sprintf("services=%d", services), func(b *testing.B) {
			s := NewState()
			for n := range services {
				name := fmt.Sprintf("web-%d", n)
				s.apply(serviceEdit(webModel(func(s *endpoints.Service) { s.Name.Name = name })), sliceEdit(sliceOf(name, name), time.Time{}))
			}
			s.sync()
			s.Take()
			versions := [2]*endpoints.Slice{sliceOf("web-7", "web-7"), sliceOf("web-7", "web-7")}
			versions[0].Endpoints[0].Ready = false
			for i := 0; b.Loop(); i++ {
				s.apply(sliceEdit(versions[i&1], time.Time{}))
				s.Take()
			}
		})
	}
}
