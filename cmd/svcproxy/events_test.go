package main

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/svcproxy/svcproxy/pkg/endpoints"
)

// newTestRecorder returns a recorder, and a function that returns the Events written, in a synctest bubble.
func newTestRecorder(t *testing.T, client *fake.Clientset) (*recorder, func() []eventsv1.Event) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	r, err := newRecorder(ctx, client, "node-a", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return r, func() []eventsv1.Event {
		synctest.Wait()
		list, err := client.EventsV1().Events(metav1.NamespaceAll).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return list.Items
	}
}

func TestEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, written := newTestRecorder(t, fake.NewClientset())
		r.aboutNode(v1.EventTypeNormal, reasonStarting, actionStart, "")
		time.Sleep(time.Millisecond) // of the bubble: names of Events are made of the time
		r.aboutService(endpoints.ObjectName{Namespace: "ns", Name: "web"}, reasonCheckFailed, actionListen, "100% failed")
		got := map[string]string{}
		for _, e := range written() {
			got[e.Reason] = strings.Join([]string{e.Type, e.Action, e.ReportingController, e.Namespace, e.Regarding.APIVersion, e.Regarding.Kind, e.Regarding.Namespace, e.Regarding.Name, e.Note}, "|")
		}
		want := map[string]string{
			"Starting":                        "Normal|StartKubeProxy|svcproxy|default|v1|Node||node-a|",
			"FailedToStartServiceHealthcheck": "Warning|Listen|svcproxy|ns|v1|Service|ns|web|node node-a 100% failed",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
	})
}

// A storm costs the API server little: the first ones, then one a second.
func TestEventsAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, written := newTestRecorder(t, fake.NewClientset())
		storm := func() {
			for i := range 1000 {
				r.aboutService(endpoints.ObjectName{Namespace: "ns", Name: string(rune('a'+i%26)) + strings.Repeat("x", i/26)}, reasonTableFull, actionProgram, "is full")
			}
		}
		storm()
		if n := len(written()); n != eventBurst {
			t.Errorf("%d events, want %d", n, eventBurst)
		}
		time.Sleep(3 * eventPeriod)
		storm()
		if n := len(written()); n > eventBurst+3 {
			t.Errorf("%d events three seconds later, want at most %d", n, eventBurst+3)
		}
	})
}

// Nobody waits for an API server that does not answer, but for the last words, and then not long.
func TestEventsDoNotBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		client.PrependReactor("create", "events", func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, nil, errors.New("no server")
		})
		r, _ := newTestRecorder(t, client)
		before := time.Now()
		r.aboutNode(v1.EventTypeNormal, reasonStarting, actionStart, "")
		if d := time.Since(before); d != 0 {
			t.Errorf("took %v", d)
		}
		r.lastWords(reasonHealthFailed, "in use")
		if d := time.Since(before); d != lastEventPatience {
			t.Errorf("last words took %v, want %v", d, lastEventPatience)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		r, written := newTestRecorder(t, fake.NewClientset())
		r.aboutNode(v1.EventTypeNormal, reasonStarting, actionStart, "")
		time.Sleep(time.Millisecond) // of the bubble: names of Events are made of the time
		before := time.Now()
		r.lastWords(reasonHealthFailed, "in use")
		if d := time.Since(before); d != 0 {
			t.Errorf("last words to a server that answers took %v", d)
		}
		found := false
		for _, e := range written() {
			found = found || e.Reason == reasonHealthFailed && e.Note == "in use"
		}
		if !found {
			t.Error("last words are not there")
		}
	})
	var none *recorder // --manifests
	none.aboutNode(v1.EventTypeNormal, reasonStarting, actionStart, "")
	none.aboutService(endpoints.ObjectName{}, reasonTableFull, actionProgram, "")
	none.lastWords(reasonHealthFailed, "")
}
