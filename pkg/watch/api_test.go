package watch

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/svcproxy/svcproxy/pkg/endpoints"
)

// logBuffer collects log lines without their times.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// count returns how many lines have all the words.
func (b *logBuffer) count(words ...string) int {
	n := 0
	for line := range strings.Lines(b.String()) {
		all := true
		for _, w := range words {
			all = all && strings.Contains(line, w)
		}
		if all {
			n++
		}
	}
	return n
}

func newLog() (*slog.Logger, *logBuffer) {
	buf := &logBuffer{}
	return slog.New(slog.NewTextHandler(buf, &slog.HandlerOptions{Level: slog.LevelInfo})), buf
}

// api is RunAPI on a fake API server. It lives in a synctest bubble: after synctest.Wait every event has
// been handled.
type api struct {
	client *fake.Clientset
	state  *State
	log    *logBuffer
}

func startAPI(t *testing.T, prepare func(*fake.Clientset), objects ...runtime.Object) *api {
	t.Helper()
	a := &api{client: fake.NewClientset(objects...), state: NewState()}
	var log *slog.Logger
	log, a.log = newLog()
	if prepare != nil {
		prepare(a.client)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- RunAPI(ctx, a.client, "node-a", a.state, log) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("RunAPI: %v", err)
		}
	})
	synctest.Wait()
	return a
}

func (a *api) createService(t *testing.T, svc *corev1.Service) {
	t.Helper()
	if _, err := a.client.CoreV1().Services(svc.Namespace).Create(t.Context(), svc, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
}

func (a *api) updateService(t *testing.T, svc *corev1.Service) {
	t.Helper()
	if _, err := a.client.CoreV1().Services(svc.Namespace).Update(t.Context(), svc, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
}

func (a *api) updateSlice(t *testing.T, slice *discoveryv1.EndpointSlice) {
	t.Helper()
	if _, err := a.client.DiscoveryV1().EndpointSlices(slice.Namespace).Update(t.Context(), slice, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
}

func TestAPI(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := startAPI(t, nil, web(nil), webSlice(nil), nodeA(nil), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-b"}})
		if !signalled(a.state) {
			t.Fatal("not signalled after sync")
		}
		wantUpdate(t, a.state, Update{
			Changes:      []Change{{Name: webName, Service: webModel(nil), Slices: []*endpoints.Slice{webSliceModel(nil)}}},
			Node:         nodeAModel(nil),
			ServiceCIDRs: []netip.Prefix{},
		})

		svc := web(func(s *corev1.Service) { s.Spec.Ports[0].Port = 81; s.ResourceVersion = "2" })
		a.updateService(t, svc)
		changed := webModel(func(s *endpoints.Service) { s.Ports[0].Port = 81 })
		if !signalled(a.state) {
			t.Error("not signalled after a change")
		}
		wantUpdate(t, a.state, Update{Changes: []Change{{Name: webName, Service: changed, Slices: []*endpoints.Slice{webSliceModel(nil)}}}})

		svc.Labels, svc.ResourceVersion = map[string]string{"team": "shop"}, "3" // nothing we look at
		a.updateService(t, svc)
		if signalled(a.state) {
			t.Error("signalled for a label that means nothing")
		}

		slice := webSlice(func(s *discoveryv1.EndpointSlice) {
			s.Labels[discoveryv1.LabelServiceName] = "api"
			s.ResourceVersion = "2"
		})
		a.updateSlice(t, slice)
		wantUpdate(t, a.state, Update{Changes: []Change{{Name: webName, Service: changed}}}) // api does not exist yet
		api := web(func(s *corev1.Service) { s.Name = "api" })
		a.createService(t, api)
		moved := webSliceModel(func(s *endpoints.Slice) { s.Service.Name = "api" })
		wantUpdate(t, a.state, Update{Changes: []Change{{Name: defaultName("api"), Slices: []*endpoints.Slice{moved},
			Service: webModel(func(s *endpoints.Service) { s.Name.Name = "api" })}}})

		if err := a.client.CoreV1().Services("default").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := a.client.CoreV1().Nodes().Delete(t.Context(), "node-a", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		wantUpdate(t, a.state, Update{Changes: []Change{{Name: webName}}, Node: nodeAModel(func(n *Node) { n.Deleting = true })})
		if lines := a.log.String(); lines != "" {
			t.Errorf("logged:\n%s", lines)
		}
	})
}

// TestAPISelectors looks at what was asked for: the fake server filters nothing.
func TestAPISelectors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := startAPI(t, nil, nodeA(nil))
		type selection struct{ Labels, Fields string }
		want := map[string]selection{
			"services":       {"!service.kubernetes.io/service-proxy-name", "spec.clusterIP!=None"},
			"endpointslices": {"!service.kubernetes.io/headless", ""},
			"nodes":          {"", "metadata.name=node-a"},
			"servicecidrs":   {"", ""},
		}
		lists, watches := make(map[string]selection), make(map[string]selection)
		for _, action := range a.client.Actions() {
			switch action := action.(type) {
			case clienttesting.ListAction:
				r := action.GetListRestrictions()
				lists[action.GetResource().Resource] = selection{r.Labels.String(), r.Fields.String()}
			case clienttesting.WatchAction:
				r := action.GetWatchRestrictions()
				watches[action.GetResource().Resource] = selection{r.Labels.String(), r.Fields.String()}
			default:
				t.Errorf("unexpected request %s %s", action.GetVerb(), action.GetResource().Resource)
			}
		}
		if diff := cmp.Diff(want, lists); diff != "" {
			t.Errorf("lists (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(want, watches); diff != "" {
			t.Errorf("watches (-want +got):\n%s", diff)
		}
	})
}

// TestAPIWaitsForAll holds back one resource at a time: without it nothing may be told.
func TestAPIWaitsForAll(t *testing.T) {
	for _, resource := range []string{"services", "endpointslices", "nodes"} {
		t.Run(resource, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var ready atomic.Bool
				a := startAPI(t, func(c *fake.Clientset) {
					c.PrependReactor("list", resource, func(clienttesting.Action) (bool, runtime.Object, error) {
						return !ready.Load(), nil, errors.New("not yet")
					})
				}, web(nil), webSlice(nil), nodeA(nil))
				if signalled(a.state) {
					t.Error("signalled too early")
				}
				wantUpdate(t, a.state, Update{})
				ready.Store(true)
				<-a.state.Changed() // the clock of the bubble goes on to the retry
				if got := a.state.Take(); len(got.Changes) != 1 || len(got.Changes[0].Slices) != 1 || got.Node == nil {
					t.Errorf("first update is %+v, want everything", got)
				}
			})
		})
	}
}

func TestAPIWithoutNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := startAPI(t, nil, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-b"}})
		if !signalled(a.state) {
			t.Error("not signalled after sync")
		}
		wantUpdate(t, a.state, Update{Node: &Node{Name: "node-a"}, ServiceCIDRs: []netip.Prefix{}})
		if n := a.log.count("WARN", "node=node-a"); n != 1 {
			t.Errorf("warned %d times, want once:\n%s", n, a.log)
		}
		if _, err := a.client.CoreV1().Nodes().Create(t.Context(), nodeA(nil), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		wantUpdate(t, a.state, Update{Node: nodeAModel(nil)})
	})
}

// TestAPIBadObject: reported once, counted, served as far as it goes, mended.
func TestAPIBadObject(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad := web(func(s *corev1.Service) {
			s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "foo", Protocol: "FOO", Port: 1})
		})
		a := startAPI(t, nil, bad, nodeA(nil))
		if got := a.state.Take(); len(got.Changes) != 1 || len(got.Changes[0].Service.Ports) != 1 {
			t.Errorf("update is %+v, want the good port", got)
		}
		bad.Labels, bad.ResourceVersion = map[string]string{"a": "b"}, "2"
		a.updateService(t, bad)
		if n := a.log.count("ERROR", `Service default/web: port \"foo\": protocol \"FOO\" is not TCP, UDP or SCTP`); n != 1 {
			t.Errorf("logged %d times, want once:\n%s", n, a.log)
		}
		a.updateService(t, web(func(s *corev1.Service) { s.ResourceVersion = "3" }))
		bad.ResourceVersion = "4"
		a.updateService(t, bad)
		if got := a.state.Counters().Rejected; got[kindService] != 2 || len(got) != 1 {
			t.Errorf("rejected %v, want the Service twice", got)
		}
	})
}

// TestAPIRelist loses the watch together with a deletion: the relist must find it, and tell nothing else.
func TestAPIRelist(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kept, lost := web(func(s *corev1.Service) { s.ResourceVersion = "1" }), web(func(s *corev1.Service) { s.Name = "lost"; s.ResourceVersion = "1" })
		listed := []corev1.Service{*kept, *lost}
		var mu sync.Mutex
		var watcher *apiwatch.RaceFreeFakeWatcher
		a := startAPI(t, func(c *fake.Clientset) {
			c.PrependReactor("list", "services", func(clienttesting.Action) (bool, runtime.Object, error) {
				mu.Lock()
				defer mu.Unlock()
				return true, &corev1.ServiceList{ListMeta: metav1.ListMeta{ResourceVersion: "10"}, Items: listed}, nil
			})
			c.PrependWatchReactor("services", func(clienttesting.Action) (bool, apiwatch.Interface, error) {
				mu.Lock()
				defer mu.Unlock()
				watcher = apiwatch.NewRaceFreeFake()
				return true, watcher, nil
			})
		}, nodeA(nil))
		if got := len(a.state.Take().Changes); got != 2 {
			t.Fatalf("%d Services at first, want 2", got)
		}
		before := a.state.Counters()
		mu.Lock()
		listed = listed[:1]
		watcher.Error(&apierrors.NewResourceExpired("compacted").ErrStatus)
		mu.Unlock()
		select {
		case <-a.state.Changed(): // the clock of the bubble goes on to the relist
		case <-t.Context().Done():
			t.Fatal("the lost deletion was not noticed")
		}
		wantUpdate(t, a.state, Update{Changes: []Change{{Name: defaultName("lost")}}})
		if got := a.state.Counters().ServiceChanges - before.ServiceChanges; got != 1 {
			t.Errorf("%d changes, want 1", got)
		}
		if lines := a.log.String(); lines != "" {
			t.Errorf("a relist is nothing to log:\n%s", lines)
		}
	})
}

// TestAPIOutage: what is known stays, the first error and the recovery are logged, retries not.
func TestAPIOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		down, requests := false, 0
		var watchers []*apiwatch.RaceFreeFakeWatcher
		back := make(chan struct{}, 1)
		a := startAPI(t, func(c *fake.Clientset) {
			refuse := func() (bool, error) {
				mu.Lock()
				defer mu.Unlock()
				if !down {
					return false, nil
				}
				if requests++; requests == 5 {
					down = false
					back <- struct{}{}
				}
				return true, errors.New("connection refused")
			}
			c.PrependReactor("list", "services", func(clienttesting.Action) (bool, runtime.Object, error) {
				refused, err := refuse()
				return refused, nil, err
			})
			c.PrependWatchReactor("services", func(clienttesting.Action) (bool, apiwatch.Interface, error) {
				if refused, err := refuse(); refused {
					return true, nil, err
				}
				mu.Lock()
				defer mu.Unlock()
				w := apiwatch.NewRaceFreeFake()
				watchers = append(watchers, w)
				return true, w, nil
			})
		}, web(nil), webSlice(nil), nodeA(nil))
		a.state.Take()
		mu.Lock()
		down = true
		watchers[0].Stop()
		mu.Unlock()
		<-back
		if n := a.log.count("ERROR", "resource=Service", "connection refused"); n != 1 {
			t.Errorf("%d errors during the outage, want 1:\n%s", n, a.log)
		}
		if signalled(a.state) {
			t.Error("the outage changed something")
		}
		changed := web(func(s *corev1.Service) { s.Spec.Ports[0].Port = 81; s.ResourceVersion = "7" })
		if err := a.client.Tracker().Update(corev1.SchemeGroupVersion.WithResource("services"), changed, "default"); err != nil {
			t.Fatal(err)
		}
		<-a.state.Changed() // found by the relist
		synctest.Wait()
		if n := a.log.count("INFO", "resource=Service"); n != 1 {
			t.Errorf("%d recoveries, want 1:\n%s", n, a.log)
		}
		if n := a.log.count("ERROR"); n != 1 {
			t.Errorf("%d errors in all, want 1:\n%s", n, a.log)
		}
	})
}

// TestStoreReplace: a list is everything: what it leaves out has gone, and so has what was wrong with it.
func TestStoreReplace(t *testing.T) {
	log, lines := newLog()
	state := NewState()
	src := &apiSource{sink: sink{state: state, report: newReporter(state, log)}, interner: newInterner()}
	s := src.store(kindService)
	bad := web(func(s *corev1.Service) { s.Name = "bad"; s.Spec.ClusterIP = "" })
	transform := s.Transformer()
	listed, err := transform(web(nil))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := transform(listed); err != nil || again != listed {
		t.Errorf("transformed again to %v, %v; want the same", again, err) // the reflector may
	}
	for _, list := range [][]any{{listed, bad}, {}, {bad}} {
		if err := s.Replace(list, "1"); err != nil {
			t.Fatal(err)
		}
		if len(list) == 2 {
			state.sync()
			wantUpdate(t, state, Update{Changes: []Change{{Name: webName, Service: webModel(nil)}}})
		}
	}
	wantUpdate(t, state, Update{Changes: []Change{{Name: webName}}})
	if n := lines.count("ERROR", "default/bad"); n != 2 {
		t.Errorf("%d complaints, want 2:\n%s", n, lines)
	}
	if !s.wait(t.Context()) {
		t.Error("not synced")
	}
}

// TestStoreDecoded: a change is as old as the first of its events; what is listed has no age.
func TestStoreDecoded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, _ := newLog()
		state := NewState()
		src := &apiSource{sink: sink{state: state, report: newReporter(state, log)}, interner: newInterner()}
		s := src.store(kindService)
		decoded := func() time.Time {
			t.Helper()
			changes := state.Take().Changes
			if len(changes) != 1 {
				t.Fatalf("%d changes, want 1", len(changes))
			}
			return changes[0].Decoded
		}
		if err := s.Replace([]any{web(nil)}, "1"); err != nil {
			t.Fatal(err)
		}
		state.sync()
		if got := decoded(); !got.IsZero() {
			t.Errorf("listed at %v", got)
		}
		first := time.Now()
		for _, event := range []func() error{
			func() error { return s.Delete(web(nil)) },
			func() error { return s.Add(web(func(s *corev1.Service) { s.Spec.Ports[0].Port = 81 })) },
		} {
			if err := event(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second) // the bubble's
		}
		if got := decoded(); !got.Equal(first) {
			t.Errorf("decoded at %v, want %v", got, first)
		}
	})
}
