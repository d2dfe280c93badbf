package health

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// clock is moved by the test.
type clock struct{ now time.Time }

func (c *clock) advance(d time.Duration) { c.now = c.now.Add(d) }

// newProxy starts at noon, on an eligible node.
func newProxy() (*Proxy, *clock) {
	c := &clock{now: time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)}
	p := NewProxy(Options{Timeout: time.Minute, Now: func() time.Time { return c.now }})
	p.SetNodeEligible(true)
	return p, c
}

func ask(h http.Handler, method, path string) *http.Response {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, path, nil))
	return w.Result()
}

// answer is status and body of a GET.
func answer(h http.Handler, path string) string {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return fmt.Sprintf("%d %s", w.Code, w.Body)
}

// byte for byte.
func TestProxyBodies(t *testing.T) {
	tests := []struct {
		name          string
		do            func(*Proxy, *clock)
		healthz, live string
	}{
		{
			name:    "before the loop starts",
			do:      func(*Proxy, *clock) {},
			healthz: `200 {"lastUpdated":"2026-01-02T12:00:00Z","currentTime":"2026-01-02T12:00:00Z","nodeEligible":true,"healthy":true}`,
			live:    `200 {"lastUpdated":"2026-01-02T12:00:00Z","currentTime":"2026-01-02T12:00:00Z","healthy":true}`,
		},
		{
			name: "idle for an hour",
			do: func(p *Proxy, c *clock) {
				p.Updated(corev1.IPv6Protocol)
				c.advance(time.Second)
				p.Updated(corev1.IPv4Protocol)
				c.advance(time.Hour)
			},
			healthz: `200 {"lastUpdated":"2026-01-02T13:00:01Z","currentTime":"2026-01-02T13:00:01Z","nodeEligible":true,"healthy":true,` +
				`"status":{"IPv4":{"lastUpdated":"2026-01-02T12:00:01Z","healthy":true},"IPv6":{"lastUpdated":"2026-01-02T12:00:00Z","healthy":true}}}`,
			live: `200 {"lastUpdated":"2026-01-02T13:00:01Z","currentTime":"2026-01-02T13:00:01Z","healthy":true,` +
				`"status":{"IPv4":{"lastUpdated":"2026-01-02T12:00:01Z","healthy":true},"IPv6":{"lastUpdated":"2026-01-02T12:00:00Z","healthy":true}}}`,
		},
		{
			name: "one family hangs",
			do: func(p *Proxy, c *clock) {
				p.Updated(corev1.IPv4Protocol)
				p.QueuedUpdate(corev1.IPv4Protocol)
				c.advance(59 * time.Second)
				p.Updated(corev1.IPv6Protocol)
				c.advance(time.Second)
			},
			healthz: `503 {"lastUpdated":"2026-01-02T12:00:59Z","currentTime":"2026-01-02T12:01:00Z","nodeEligible":true,"healthy":false,` +
				`"status":{"IPv4":{"lastUpdated":"2026-01-02T12:00:00Z","healthy":false},"IPv6":{"lastUpdated":"2026-01-02T12:00:59Z","healthy":true}}}`,
			live: `503 {"lastUpdated":"2026-01-02T12:00:59Z","currentTime":"2026-01-02T12:01:00Z","healthy":false,` +
				`"status":{"IPv4":{"lastUpdated":"2026-01-02T12:00:00Z","healthy":false},"IPv6":{"lastUpdated":"2026-01-02T12:00:59Z","healthy":true}}}`,
		},
		{
			name: "node not eligible: the data path is still called healthy",
			do: func(p *Proxy, c *clock) {
				p.SetNodeEligible(false)
				p.Updated(corev1.IPv4Protocol)
				c.advance(time.Minute)
			},
			healthz: `503 {"lastUpdated":"2026-01-02T12:00:00Z","currentTime":"2026-01-02T12:01:00Z","nodeEligible":false,"healthy":true,` +
				`"status":{"IPv4":{"lastUpdated":"2026-01-02T12:00:00Z","healthy":true}}}`,
			live: `200 {"lastUpdated":"2026-01-02T12:01:00Z","currentTime":"2026-01-02T12:01:00Z","healthy":true,` +
				`"status":{"IPv4":{"lastUpdated":"2026-01-02T12:00:00Z","healthy":true}}}`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, c := newProxy()
			tt.do(p, c)
			if diff := cmp.Diff(tt.healthz, answer(p.Handler(), "/healthz")); diff != "" {
				t.Errorf("/healthz (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.live, answer(p.Handler(), "/livez")); diff != "" {
				t.Errorf("/livez (-want +got):\n%s", diff)
			}
		})
	}
}

// the oldest change that waits decides.
func TestProxyHealth(t *testing.T) {
	p, c := newProxy()
	step := func(what string, do func(), want bool) {
		t.Helper()
		do()
		if got := p.Healthy(); got != want {
			t.Errorf("%s: healthy %t, want %t", what, got, want)
		}
	}
	v4, v6 := corev1.IPv4Protocol, corev1.IPv6Protocol
	step("queued before the loop starts", func() { p.QueuedUpdate(v4); c.advance(time.Hour) }, true)
	step("loop started", func() { p.Updated(v4); p.Updated(v6) }, true)
	step("queued", func() { p.QueuedUpdate(v4); c.advance(40 * time.Second) }, true)
	step("a younger change does not rejuvenate", func() { p.QueuedUpdate(v4); c.advance(20 * time.Second) }, false)
	step("the other family does not heal it", func() { p.Updated(v6) }, false)
	step("written", func() { p.Updated(v4) }, true)
	step("idle", func() { c.advance(24 * time.Hour) }, true)
}

func TestProxyPaths(t *testing.T) {
	p, _ := newProxy()
	tests := []struct {
		method, path string
		want         int
	}{
		{http.MethodGet, "/healthz", 200}, {http.MethodPost, "/livez", 200}, {http.MethodHead, "/healthz", 200},
		{http.MethodGet, "/readyz", 503},
		{http.MethodGet, "/", 404}, {http.MethodGet, "/healthz/", 404}, {http.MethodGet, "/livez/x", 404}, {http.MethodGet, "/metrics", 404},
	}
	for _, tt := range tests {
		resp := ask(p.Handler(), tt.method, tt.path)
		if resp.StatusCode != tt.want {
			t.Errorf("%s %s: %d, want %d", tt.method, tt.path, resp.StatusCode, tt.want)
		}
		if tt.want == 404 {
			continue
		}
		if h := resp.Header; h.Get("Content-Type") != "application/json" || h.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s %s: headers %v", tt.method, tt.path, h)
		}
	}
}

func TestReadyz(t *testing.T) {
	p, _ := newProxy()
	want := `503 {"ready":false,"awaiting":["first sync"]}`
	if got := answer(p.Handler(), "/readyz"); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	p.SetAwaiting("services", "endpointslices")
	want = `503 {"ready":false,"awaiting":["services","endpointslices"]}`
	if got := answer(p.Handler(), "/readyz"); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	p.SetAwaiting()
	if got, want := answer(p.Handler(), "/readyz"), `200 {"ready":true}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestProxyAnswersAreCounted(t *testing.T) {
	counts := map[string]int{}
	p := NewProxy(Options{Timeout: time.Minute, Now: time.Now,
		Answered: func(path string, code int) { counts[fmt.Sprint(path, " ", code)]++ }})
	for _, path := range []string{"/healthz", "/livez", "/livez", "/readyz", "/other"} {
		ask(p.Handler(), http.MethodGet, path)
	}
	want := map[string]int{"/healthz 503": 1, "/livez 200": 2}
	if diff := cmp.Diff(want, counts); diff != "" {
		t.Errorf("answers (-want +got):\n%s", diff)
	}
}

//
func TestNodeEligible(t *testing.T) {
	now := metav1.Now()
	tainted := func(key string) *corev1.Node {
		return &corev1.Node{Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: "other"}, {Key: key, Effect: corev1.TaintEffectNoExecute}}}}
	}
	tests := []struct {
		name string
		node *corev1.Node
		want bool
	}{
		{"unknown", nil, false},
		{"plain", &corev1.Node{}, true},
		{"deleted", &corev1.Node{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &now}}, false},
		{"leaving, says the autoscaler", tainted("ToBeDeletedByClusterAutoscaler"), false},
		{"another taint", tainted("DeletionCandidateOfClusterAutoscaler"), true},
		{"unschedulable", &corev1.Node{Spec: corev1.NodeSpec{Unschedulable: true}}, true},
		{"not ready", &corev1.Node{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionFalse}}}}, true},
	}
	for _, tt := range tests {
		if got := NodeEligible(tt.node); got != tt.want {
			t.Errorf("%s: %t, want %t", tt.name, got, tt.want)
		}
	}
}
